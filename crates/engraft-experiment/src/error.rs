//! What can go wrong, what it is called and which exit code it has.

use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, with a message for the person who typed the command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in an experiment's file.
    #[error("{}:{line}: {message}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What was found and what was expected.
        message: String,
    },
    /// A name that does not exist.
    #[error("unknown {kind} `{found}`: {hint}")]
    Unknown {
        /// What the name should have named, for example "experiment".
        kind: &'static str,
        /// The name as it was written.
        found: String,
        /// The nearest valid name and all valid ones.
        hint: String,
    },
    /// Any other input that cannot be used.
    #[error("{0}")]
    Input(String),
    /// A file or directory that cannot be read or written.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was tried: "read" or "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        reason: String,
    },
    /// A part that this build does not have.
    #[error("{0}")]
    NotBuilt(String),
    /// A run that failed.
    #[error("{0}")]
    Run(String),
    /// A worker process that ended in the middle of a run.
    #[error("{0}")]
    WorkerLost(String),
}

impl Error {
    /// The process's exit code: 1 when a run failed, 2 when the input or the disk is at fault.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Run(_) | Self::WorkerLost(_) => 1,
            _ => 2,
        }
    }

    /// An unknown name, with the nearest of the valid ones.
    #[must_use]
    pub fn unknown<S: AsRef<str>>(kind: &'static str, found: &str, choices: &[S]) -> Self {
        Self::Unknown {
            kind,
            found: found.to_owned(),
            hint: nearest_hint(found, choices),
        }
    }

    /// A failed read or write of `path`.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, source: &std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            reason: source.to_string(),
        }
    }
}

/// "the nearest is `a`; valid: `a`, `b`": the nearest by edit distance, then all in their order.
#[must_use]
pub fn nearest_hint<S: AsRef<str>>(found: &str, choices: &[S]) -> String {
    let nearest = choices
        .iter()
        .map(AsRef::as_ref)
        .min_by_key(|choice| strsim::damerau_levenshtein(found, choice));
    let all: Vec<String> = choices
        .iter()
        .map(|choice| format!("`{}`", choice.as_ref()))
        .collect();
    match nearest {
        Some(nearest) => format!("the nearest is `{nearest}`; valid: {}", all.join(", ")),
        None => "there are none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_comes_first() {
        let error = Error::unknown("experiment", "quikstart", &["moe", "quickstart"]);
        assert_eq!(
            error.to_string(),
            "unknown experiment `quikstart`: the nearest is `quickstart`; valid: `moe`, `quickstart`"
        );
        assert_eq!(error.exit_code(), 2);
        assert_eq!(nearest_hint::<&str>("x", &[]), "there are none");
    }
}
