//! What can go wrong, as values whose message says what was found and what was expected.

use thiserror::Error;

/// The result of reading or writing an adapter of PEFT.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the interchange.
#[derive(Debug, Error)]
pub enum Error {
    /// A PEFT type that Engraft does not read.
    #[error("PEFT type `{found}` is not supported yet; supported: {supported}")]
    UnknownType {
        /// The type that was found.
        found: String,
        /// The types that are read.
        supported: String,
    },
    /// An option, a kind of layer or a method that a supported type or file format cannot express.
    #[error("{0}")]
    Unsupported(String),
    /// A configuration value has the wrong type or is out of range.
    #[error("adapter_config.json: `{key}`: {reason}")]
    BadConfig {
        /// The key.
        key: String,
        /// What was found and expected.
        reason: String,
    },
    /// A configuration key with a value that means something, but not to Engraft.
    #[error(
        "adapter_config.json: unknown key `{key}` = {value}; it may change what the adapter computes{suggestion}"
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// `; nearest: ...`, or empty.
        suggestion: String,
    },
    /// Tensors that are missing, unexpected or of another shape, all of them named.
    #[error("adapter_model.safetensors: {0}")]
    Tensors(String),
    /// Attaching, reading or writing failed.
    #[error(transparent)]
    Core(#[from] engraft_core::Error),
}

impl Error {
    pub(crate) fn config(key: &str, reason: impl ToString) -> Self {
        Self::BadConfig {
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }
}
