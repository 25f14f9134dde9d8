//! Where experiments and results are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// The directory of experiments below the root.
const EXPERIMENTS: &str = "experiments";

/// The nearest of `start` and its ancestors that has a directory `experiments`.
///
/// # Errors
/// When there is none.
pub fn root(start: &Path) -> Result<PathBuf> {
    start
        .ancestors()
        .find(|directory| directory.join(EXPERIMENTS).is_dir())
        .map(Path::to_owned)
        .ok_or_else(|| {
            Error::Input(format!(
                "no directory `{EXPERIMENTS}` in {} or above it: start the command inside the workspace",
                start.display()
            ))
        })
}

/// The root above the current directory.
///
/// # Errors
/// As [`root`].
pub fn current_root() -> Result<PathBuf> {
    let here = Path::new(".");
    root(&fs::canonicalize(here).map_err(|error| Error::io("read", here, &error))?)
}

/// The names of all experiments: paths below `experiments` without `.toml`, sorted.
#[must_use]
pub fn names(root: &Path) -> Vec<String> {
    let base = root.join(EXPERIMENTS);
    let mut names = Vec::new();
    collect(&base, &base, &mut names);
    names.sort();
    names
}

fn collect(base: &Path, directory: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(base, &path, names);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && let Ok(relative) = path.with_extension("").strip_prefix(base)
        {
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            names.push(parts.join("/"));
        }
    }
}

/// The file of the experiment called `name`.
#[must_use]
pub fn file(root: &Path, name: &str) -> PathBuf {
    root.join(EXPERIMENTS).join(format!("{name}.toml"))
}

/// Resolves NAME|PATH to a name and a file. A path ends in `.toml`; its name is that of the
/// experiment when it lies below `experiments`, otherwise the file's.
///
/// # Errors
/// When neither an experiment nor a file is found, with the nearest names.
pub fn resolve(root: &Path, argument: &str) -> Result<(String, PathBuf)> {
    let known = names(root);
    if known.iter().any(|name| name == argument) {
        return Ok((argument.to_owned(), file(root, argument)));
    }
    let path = Path::new(argument);
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Err(Error::unknown("experiment", argument, &known));
    }
    let path = fs::canonicalize(path).map_err(|error| Error::io("read", path, &error))?;
    let name = known
        .into_iter()
        .find(|name| fs::canonicalize(file(root, name)).is_ok_and(|file| file == path));
    let stem = || {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    Ok((name.unwrap_or_else(stem), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiments_are_found_by_name_and_by_path() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("experiments/lora");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("table-1.toml"), "").unwrap();
        fs::write(directory.path().join("own.toml"), "").unwrap();
        let found = root(&deep).unwrap();
        assert_eq!(names(&found), ["lora/table-1"]);
        let path = deep.join("table-1.toml");
        assert_eq!(resolve(&found, "lora/table-1").unwrap().1, path);
        assert_eq!(
            resolve(&found, path.to_str().unwrap()).unwrap().0,
            "lora/table-1"
        );
        let own = directory.path().join("own.toml");
        assert_eq!(resolve(&found, own.to_str().unwrap()).unwrap().0, "own");
        let message = resolve(&found, "lora/table1").unwrap_err().to_string();
        assert!(
            message.contains("the nearest is `lora/table-1`"),
            "{message}"
        );
        assert!(resolve(&found, "missing.toml").is_err());
    }
}
