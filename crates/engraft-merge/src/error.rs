//! What can go wrong: which adapter and module, what was found, and what would work.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use engraft_linalg::LinalgError;

/// Result of an operation on adapters.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of an operation on adapters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An adapter that cannot be merged, or not so.
    #[error("adapter `{adapter}`: {reason}")]
    Adapter {
        /// Its name.
        adapter: String,
        /// What is wrong with it, and what would work.
        reason: String,
    },
    /// A module of an adapter that cannot be merged, or not so.
    #[error("adapter `{adapter}`, module `{module}`: {reason}")]
    Module {
        /// Name of the adapter.
        adapter: String,
        /// Path of the module.
        module: String,
        /// What is wrong with it, and what would work.
        reason: String,
    },
    /// Options that make no sense.
    #[error("{0}")]
    Input(String),
    /// A decomposition that does not exist.
    #[error(transparent)]
    Linalg(#[from] LinalgError),
}

impl Error {
    /// An error of a file.
    pub fn file(path: &Path, reason: impl Display) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// An error of an adapter.
    pub fn adapter(adapter: &str, reason: impl Display) -> Self {
        Self::Adapter {
            adapter: adapter.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// An error of a module.
    pub fn module(adapter: &str, module: &str, reason: impl Display) -> Self {
        Self::Module {
            adapter: adapter.to_owned(),
            module: module.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// An error of the options.
    pub fn input(reason: impl Display) -> Self {
        Self::Input(reason.to_string())
    }
}

/// The nearest of some names: at most three, nearest first, those within half of the length of what was
/// found.
#[must_use]
pub fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(distance, name)| *distance <= found.len().max(name.len()) / 2)
        .collect();
    near.sort();
    near.into_iter().map(|(_, name)| name).take(3).collect()
}
