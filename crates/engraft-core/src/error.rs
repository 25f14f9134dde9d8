//! What can go wrong, as values whose message says what was found and what was expected.

use std::path::PathBuf;

use thiserror::Error;

/// The result of an operation of the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the contract.
#[derive(Debug, Error)]
pub enum Error {
    /// No method of that name is registered.
    #[error("unknown method `{found}`{suggestion}")]
    UnknownMethod {
        /// The name that was asked for.
        found: String,
        /// `; nearest: ...`, or empty.
        suggestion: String,
    },
    /// A configuration has a key that the method does not know.
    #[error("method `{method}` has no key `{found}`; it takes: {known}{suggestion}")]
    UnknownKey {
        /// The method.
        method: String,
        /// The key that was found.
        found: String,
        /// The keys the method takes.
        known: String,
        /// `; nearest: ...`, or empty.
        suggestion: String,
    },
    /// A configuration value has the wrong type or is out of range.
    #[error("configuration of `{what}`: {reason}")]
    BadConfig {
        /// The method or section.
        what: String,
        /// What was found and expected.
        reason: String,
    },
    /// The method does not fit a layer's shape.
    #[error("`{method}` does not fit {path} ({d_in} -> {d_out}): {reason}")]
    Inadmissible {
        /// The method.
        method: String,
        /// The layer.
        path: String,
        /// Inputs of the layer.
        d_in: usize,
        /// Outputs of the layer.
        d_out: usize,
        /// What was found and expected.
        reason: String,
    },
    /// A target pattern is not a valid regular expression.
    #[error("target pattern `{pattern}`: {reason}")]
    BadPattern {
        /// The pattern.
        pattern: String,
        /// The parser's complaint.
        reason: String,
    },
    /// A target selects nothing.
    #[error("target `{pattern}` matches no {what}{suggestion}")]
    NoTarget {
        /// The pattern.
        pattern: String,
        /// Layers, sites or parameters.
        what: &'static str,
        /// `; nearest: ...`, or empty.
        suggestion: String,
    },
    /// The slot already holds an adapter of that name.
    #[error("{path} already has an adapter `{name}`: remove it first, or choose another name")]
    AlreadyAdapted {
        /// The slot.
        path: String,
        /// The adapter's name.
        name: String,
    },
    /// No adapter of that name is attached.
    #[error("no adapter `{found}` is attached; there is: {known}{suggestion}")]
    UnknownAdapter {
        /// The name that was asked for.
        found: String,
        /// The names there are.
        known: String,
        /// `; nearest: ...`, or empty.
        suggestion: String,
    },
    /// The operation needs the weight form, which the method does not have here.
    #[error("`{method}` at {path} has no weight form: {reason}")]
    NoWeightForm {
        /// The method.
        method: String,
        /// The slot or site.
        path: String,
        /// Why, and what would work.
        reason: String,
    },
    /// The operation is not possible in this state or for this kind of method.
    #[error("{0}")]
    Unsupported(String),
    /// A file is missing, truncated, or not what it should be.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        reason: String,
    },
    /// Linear algebra failed, for example on non-finite weights.
    #[error("{path}: {reason}")]
    Numeric {
        /// The layer.
        path: String,
        /// What was found.
        reason: String,
    },
}
