//! What can be wrong with data or with a request for it.

use thiserror::Error;

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

    /// The file has a header and no rows.
    #[error("found no rows, expected at least one image")]
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
}
