//! What can go wrong in training.

use std::path::PathBuf;

use thiserror::Error;

/// The result of training.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of training.
#[derive(Debug, Error)]
pub enum Error {
    /// The model or a file.
    #[error(transparent)]
    Core(#[from] engraft_core::Error),
    /// The data.
    #[error(transparent)]
    Data(#[from] engraft_data::DataError),
    /// A setting is out of range.
    #[error("{what}: {reason}")]
    BadConfig {
        /// The setting.
        what: &'static str,
        /// What was found and expected.
        reason: String,
    },
    /// A checkpoint belongs to another run or is not a checkpoint.
    #[error("{path}: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        reason: String,
    },
    /// The loss is not a number or infinite.
    #[error("the loss is {loss} at step {step}: lower the learning rate, or clip the gradients")]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
}
