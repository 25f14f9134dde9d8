//! What files call the tensors of a model.

/// The table of an architecture: how the names in its files become paths of the model, and back.
///
/// All names here are without the prefix, which files may have or lack.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// What the encoder or decoder is called inside a model with a head, without dot.
    pub prefix: &'static str,
    /// Beginnings of names that belong to heads and poolers: what a checkpoint has of them beyond the
    /// model is left out, and what it lacks may start fresh.
    pub heads: &'static [&'static str],
    /// Parts of names that are read, and what they stand for.
    pub read: &'static [(&'static str, &'static str)],
    /// Parts of names that files have, and those of the model.
    pub renamed: &'static [(&'static str, &'static str)],
    /// Ends of names that are no parameters.
    pub buffers: &'static [&'static str],
    /// Names under which a parameter is stored a second time, and its own: tied weights.
    pub aliases: Vec<(&'static str, &'static str)>,
    /// Whether files have the second names beside the parameters' own.
    pub writes_aliases: bool,
}

impl Names {
    /// The path in the model, without prefix, of a tensor in a file.
    pub fn path(&self, name: &str) -> String {
        let mut path = self.bare(name).to_owned();
        for (old, new) in self.read.iter().chain(self.renamed) {
            path = path.replacen(old, new, 1);
        }
        path
    }

    /// The name in a file of a parameter of the model.
    pub fn file(&self, path: &str) -> String {
        let mut name = self.bare(path).to_owned();
        let prefix = &path[..path.len() - name.len()];
        for (file, memory) in self.renamed {
            name = name.replacen(memory, file, 1);
        }
        format!("{prefix}{name}")
    }

    /// The names under which a file has a parameter of the model.
    pub fn files(&self, path: &str) -> Vec<String> {
        let own = self.bare(path);
        let aliases = self.aliases.iter().filter(|_| self.writes_aliases);
        let also = aliases.filter(|(_, name)| *name == own);
        let also = also.map(|(alias, _)| (*alias).to_owned());
        std::iter::once(self.file(path)).chain(also).collect()
    }

    /// The name without the prefix.
    pub fn bare<'a>(&self, name: &'a str) -> &'a str {
        let inside = name.strip_prefix(self.prefix);
        let inside = inside.and_then(|rest| rest.strip_prefix('.'));
        inside.filter(|_| !self.prefix.is_empty()).unwrap_or(name)
    }

    /// Whether a path without prefix belongs to a head or a pooler.
    pub fn is_head(&self, path: &str) -> bool {
        self.heads.iter().any(|head| path.starts_with(head))
    }

    /// Whether a path without prefix is no parameter.
    pub fn is_buffer(&self, path: &str) -> bool {
        self.buffers.iter().any(|buffer| path.ends_with(buffer))
    }
}
