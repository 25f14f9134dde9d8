//! What can be wrong with data or with a request for it.

use std::path::PathBuf;

use thiserror::Error;

use crate::read::Problem;

/// The result of reading data.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// A malformed file or a request that the data cannot meet.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file is not well-formed CSV, for example a row with a missing field.
    #[error("malformed CSV: {0}")]
    Csv(#[from] csv::Error),

    /// The header is not the one of the format.
    #[error("line 1, column {column}: found header {found:?}, expected {expected:?}")]
    Header {
        /// Column, counted from 1.
        column: usize,
        /// Text of the header.
        found: String,
        /// Text of the format.
        expected: String,
    },

    /// A field is not an integer of its range.
    #[error("line {line}, column {column}: found {found:?}, expected an integer from 0 to {max}")]
    Field {
        /// Line of the file, counted from 1.
        line: u64,
        /// Name of the column.
        column: String,
        /// Text of the field.
        found: String,
        /// Largest valid value.
        max: u8,
    },

    /// There are no rows.
    #[error("found no rows, expected at least one")]
    Empty,

    /// A class has fewer images in the pool than were asked for.
    #[error("found {found} images of class {class} in the pool, expected at least {expected}")]
    TooFewLabels {
        /// The class.
        class: u8,
        /// Its images in the pool.
        found: usize,
        /// Labels per class that were asked for.
        expected: usize,
    },

    /// A batch of no examples.
    #[error("found a batch size of 0, expected at least 1")]
    EmptyBatch,

    /// No domain has this name.
    #[error("found domain {found:?}, expected one of {known}; the nearest is {nearest:?}")]
    UnknownDomain {
        /// The name that was given.
        found: String,
        /// The valid name with the smallest edit distance.
        nearest: &'static str,
        /// All valid names.
        known: String,
    },

    /// A file or directory cannot be read, or a temporary file cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// A file is not what its name says.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },

    /// A file has no rows.
    #[error("{path}: found no rows, expected at least one")]
    NoRows {
        /// The file.
        path: PathBuf,
    },

    /// A column is not there.
    #[error("{path}: found columns {found}; expected {expected}{nearest}")]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The columns that are there.
        found: String,
        /// What was looked for.
        expected: String,
        /// The nearest name, as the end of the sentence.
        nearest: String,
    },

    /// More rows are unusable than are tolerated.
    #[error(
        "found {} unusable {}, tolerated are {limit}{}",
        problems.len(),
        if problems.len() == 1 { "row" } else { "rows" },
        crate::read::lines(problems)
    )]
    BadRows {
        /// How many are tolerated.
        limit: usize,
        /// Those that were found until it was too many.
        problems: Vec<Problem>,
    },

    /// A tokenizer cannot be used.
    #[error("{path}: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },

    /// A tokenizer knows tokens for which a model has no embedding.
    #[error(
        "the tokenizer has {tokenizer} tokens, the model's vocabulary {model}: token {token:?} has \
         id {id}, expected ids below {model}"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Size of the model's vocabulary.
        model: usize,
        /// A token that does not fit.
        token: String,
        /// Its id.
        id: u32,
    },

    /// A data set has more classes than a model's head.
    #[error("found {found} labels in the data ({labels}), the model's head has {expected}")]
    TooManyLabels {
        /// Labels of the data.
        found: usize,
        /// Their names.
        labels: String,
        /// Outputs of the head.
        expected: usize,
    },

    /// A setting is out of its range.
    #[error("{what}: {reason}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
}
