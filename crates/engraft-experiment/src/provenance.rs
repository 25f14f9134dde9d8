//! Which code, compiler and machine made a run.

use std::{env, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::process;

/// Versions and machine, without anything that names the machine's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of this crate.
    pub engraft: String,
    /// Version of the compiler.
    pub rustc: String,
    /// The commit of the workspace, or "unknown".
    pub commit: String,
    /// Operating system and architecture.
    pub platform: String,
    /// The processor.
    pub processor: String,
}

impl Provenance {
    /// That of this process, with the commit that `GIT_COMMIT` or the repository around
    /// `directory` names.
    #[must_use]
    pub fn collect(directory: &Path) -> Self {
        Self {
            engraft: env!("CARGO_PKG_VERSION").to_owned(),
            rustc: env!("ENGRAFT_RUSTC").to_owned(),
            commit: env::var("GIT_COMMIT")
                .ok()
                .or_else(|| commit(directory))
                .unwrap_or_else(|| "unknown".to_owned()),
            platform: format!("{} {}", env::consts::OS, env::consts::ARCH),
            processor: process::processor(),
        }
    }
}

/// The commit of the repository around `directory`.
fn commit(directory: &Path) -> Option<String> {
    let git = directory
        .ancestors()
        .map(|ancestor| ancestor.join(".git"))
        .find(|git| git.is_dir())?;
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(reference) = head.trim().strip_prefix("ref: ") else {
        return Some(head.trim().to_owned());
    };
    let loose = fs::read_to_string(git.join(reference)).ok();
    loose.map(|text| text.trim().to_owned()).or_else(|| {
        let packed = fs::read_to_string(git.join("packed-refs")).ok()?;
        let line = packed
            .lines()
            .find(|line| line.ends_with(&format!(" {reference}")))?;
        Some(line.split_once(' ')?.0.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_read_from_loose_and_packed_references() {
        let root = tempfile::tempdir().unwrap();
        let git = root.path().join(".git");
        assert_eq!(commit(root.path()), None);
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(git.join("packed-refs"), "# pack\nabc refs/heads/main\n").unwrap();
        assert_eq!(commit(root.path()).as_deref(), Some("abc"));
        fs::write(git.join("refs/heads/main"), "def\n").unwrap();
        assert_eq!(
            commit(&root.path().join("experiments")).as_deref(),
            Some("def")
        );
    }
}
