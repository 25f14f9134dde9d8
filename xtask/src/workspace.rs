//! The checkout we work on: its root and its text files.

use crate::{error::XtaskError, process};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A text file that belongs to the project.
pub struct TextFile {
    /// Relative to the root, with `/` between its parts.
    pub path: String,
    /// Its content.
    pub text: String,
}

impl TextFile {
    /// Whether this is Rust source.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// The root of the workspace around the current directory.
///
/// Asked at run time: a path compiled into this program would be another checkout's when two of
/// them share a target directory.
///
/// # Errors
/// The current directory is in no workspace.
pub fn root() -> Result<PathBuf, XtaskError> {
    let manifest = process::capture(process::cargo().args([
        "locate-project",
        "--workspace",
        "--message-format",
        "plain",
    ]))?;
    let manifest = Path::new(manifest.trim());
    Ok(manifest.parent().unwrap_or(manifest).to_path_buf())
}

/// Every text file of the project: what git tracks or would track. Without git (an unpacked
/// archive), everything under `root` but build output.
///
/// # Errors
/// A directory or a file cannot be read.
pub fn text_files(root: &Path) -> Result<Vec<TextFile>, XtaskError> {
    let mut paths = match git_files(root) {
        Some(paths) => paths,
        None => walk(root, root)?,
    };
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        match fs::read_to_string(root.join(&path)) {
            Ok(text) => files.push(TextFile { path, text }),
            // Not text, deleted but not yet committed, or a link to a directory.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData
                        | io::ErrorKind::NotFound
                        | io::ErrorKind::IsADirectory
                ) => {}
            Err(source) => {
                return Err(XtaskError::File {
                    action: "read",
                    path: root.join(path),
                    source,
                });
            }
        }
    }
    Ok(files)
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .stderr(Stdio::null());
    let output = git.output().ok().filter(|output| output.status.success())?;
    let names = String::from_utf8(output.stdout).ok()?;
    Some(names.split_terminator('\0').map(String::from).collect())
}

fn walk(root: &Path, directory: &Path) -> Result<Vec<String>, XtaskError> {
    let unreadable = |source| XtaskError::File {
        action: "read",
        path: directory.to_path_buf(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        if entry.file_type().map_err(unreadable)?.is_dir() {
            if !["target", "runs", ".git"]
                .iter()
                .any(|name| path == root.join(name))
            {
                paths.extend(walk(root, &path)?);
            }
        } else if let Ok(relative) = path.strip_prefix(root) {
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            paths.push(parts.join("/"));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_git_the_tree_is_walked_and_build_output_and_binary_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("crates/target")).unwrap();
        fs::create_dir_all(folder.path().join("target")).unwrap();
        fs::write(folder.path().join("crates/target/kept.rs"), "fn kept() {}").unwrap();
        fs::write(folder.path().join("target/built.rs"), "").unwrap();
        fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
        let files = text_files(folder.path()).unwrap();
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["crates/target/kept.rs"]);
        assert!(files[0].is_rust());
    }
}
