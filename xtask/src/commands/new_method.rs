//! `new-method`: the files of a method that does nothing yet, and its line in the registry.

mod insert;
mod template;

use super::Run;
use crate::{error::XtaskError, names::suggestion, rules::FAMILIES, workspace};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;
use template::Names;

const REGISTRY: &str = "crates/engraft/src/registry.rs";

/// Rust's keywords, and the names that a crate keeps for its roots.
#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "lib", "loop", "macro", "main", "match", "mod", "move", "mut", "override", "priv",
    "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type",
    "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// Write the files of a new method and register it
#[derive(clap::Args)]
pub struct NewMethod {
    /// The family it belongs to: lowrank, svd, kronecker, …
    family: String,
    /// Its id in snake case, for example `lora_xs`
    name: String,
}

impl Run for NewMethod {
    fn run(self) -> Result<(), XtaskError> {
        let paths = scaffold(&workspace::root()?, &self.family, &self.name)?;
        println!("wrote the method {}:", self.name);
        for path in paths {
            println!("  {path}");
        }
        println!("next: write its equation, then run cargo xtask test");
        Ok(())
    }
}

/// Writes the method's files, its line in the family's `lib.rs` and its line in the registry;
/// returns their paths. All or nothing: everything is rendered and on disk under temporary names
/// before the first file gets its own.
fn scaffold(root: &Path, family: &str, name: &str) -> Result<Vec<String>, XtaskError> {
    let names = Names { family, name };
    check_family(root, family)?;
    check_name(root, name)?;

    let rendered = template::render(&names);
    for (path, _) in &rendered.files {
        refuse_existing(root, name, path)?;
    }
    let lib = format!("crates/engraft-{family}/src/lib.rs");
    let with_module = insert::module(&read(root, &lib)?, name);
    let with_row = insert::registry_line(&read(root, REGISTRY)?, &rendered.registry_line)
        .map_err(|reason| XtaskError::BadInput(format!("{REGISTRY}: {reason}")))?;
    let edited = [(lib, with_module), (REGISTRY.into(), with_row)];
    let files: Vec<(String, String)> = rendered.files.into_iter().chain(edited).collect();

    let mut staged = Vec::new();
    for (path, text) in &files {
        let target = root.join(path);
        staged.push((
            stage(&target, text).map_err(|source| unwritable(&target, source))?,
            target,
        ));
    }
    for (file, target) in staged {
        file.persist(&target)
            .map_err(|error| unwritable(&target, error.error))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// The family exists in the design and as a crate.
fn check_family(root: &Path, family: &str) -> Result<(), XtaskError> {
    let exists = |name: &&&str| {
        root.join(format!("crates/engraft-{name}/src/lib.rs"))
            .exists()
    };
    let present: Vec<&str> = FAMILIES.iter().filter(exists).copied().collect();
    if present.contains(&family) {
        return Ok(());
    }
    let nearest = suggestion(family, present);
    Err(XtaskError::BadInput(format!(
        "found the family `{family}`, which has no crate{nearest}"
    )))
}

/// The name is one that Rust takes for a module, and no family has it.
fn check_name(root: &Path, name: &str) -> Result<(), XtaskError> {
    let snake = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !snake || !name.starts_with(|c: char| c.is_ascii_lowercase()) || RESERVED.contains(&name) {
        return Err(XtaskError::BadInput(format!(
            "found the name `{name}`; expected snake case that Rust takes for a module: a letter, \
             then letters, digits and `_`, all lower case, such as `lora_xs`"
        )));
    }
    FAMILIES
        .iter()
        .map(|family| format!("crates/engraft-{family}/src/{name}.rs"))
        .try_for_each(|path| refuse_existing(root, name, &path))
}

fn refuse_existing(root: &Path, name: &str, path: &str) -> Result<(), XtaskError> {
    if root.join(path).exists() {
        return Err(XtaskError::BadInput(format!(
            "the name `{name}` is taken by {path}; expected a name that no method has"
        )));
    }
    Ok(())
}

fn read(root: &Path, path: &str) -> Result<String, XtaskError> {
    fs::read_to_string(root.join(path)).map_err(|source| XtaskError::File {
        action: "read",
        path: PathBuf::from(path),
        source,
    })
}

fn stage(target: &Path, text: &str) -> io::Result<NamedTempFile> {
    let folder = target.parent().unwrap_or(target);
    fs::create_dir_all(folder)?;
    // A file as any other is created: tempfile's own would be readable by its owner alone.
    let mut file = tempfile::Builder::new().make_in(folder, |path| fs::File::create_new(path))?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

fn unwritable(path: &Path, source: io::Error) -> XtaskError {
    XtaskError::File {
        action: "write",
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "crates/engraft-lowrank/src/lib.rs",
            "//! Low rank.\n\npub mod dora;\npub mod vera;\n",
        );
        write("crates/engraft-lowrank/src/dora.rs", "");
        write("crates/engraft-sparse/src/lib.rs", "//! Sparse.\n");
        write(REGISTRY, "// registry: begin\n// registry: end\n");
        folder
    }

    #[test]
    fn a_method_is_its_files_and_two_lines() {
        let folder = workspace();
        let paths = scaffold(folder.path(), "lowrank", "lora_toy").unwrap();
        let text = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
        assert!(text("crates/engraft-lowrank/src/lora_toy.rs").contains("LoraToy"));
        assert_eq!(
            text("crates/engraft-lowrank/src/lib.rs"),
            "//! Low rank.\n\npub mod dora;\npub mod lora_toy;\npub mod vera;\n"
        );
        assert!(text(REGISTRY).contains("lora_toy"));
        assert!(
            paths.iter().all(|path| !text(path).contains("{{")),
            "{paths:?}"
        );
    }

    #[test]
    fn bad_requests_are_refused_and_leave_no_trace() {
        let folder = workspace();
        let refused = |family: &str, name: &str| {
            let error = scaffold(folder.path(), family, name).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        };
        assert!(refused("lowrnk", "toy").ends_with("nearest: lowrank"));
        assert!(refused("sparse", "dora").contains("engraft-lowrank/src/dora.rs"));
        for name in ["Toy", "2toy", "", "to-y", "match", "../toy"] {
            assert!(refused("lowrank", name).contains("snake case"), "{name}");
        }
        fs::write(folder.path().join(REGISTRY), "no markers").unwrap();
        assert!(refused("lowrank", "toy").contains("registry: begin"));
        assert!(
            !folder
                .path()
                .join("crates/engraft-lowrank/src/toy.rs")
                .exists()
        );
    }
}
