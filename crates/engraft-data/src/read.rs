//! Rows of local files, one at a time: CSV, TSV, JSON lines and Parquet.
//!
//! A [`Source`] is read from its beginning, as often as needed, and holds one row (Parquet: one
//! decoded batch of a row group) at a time. There is no random access here, because Parquet has
//! none that is cheap and because text would be split and tokenized again in every epoch: a
//! [`TextSet`](crate::TextSet) encodes the rows once and shuffles what it encoded.

mod delimited;
mod json_lines;
mod parquet;
mod problem;
mod row;

use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};

pub use delimited::Delimited;
pub use json_lines::JsonLines;
pub use parquet::Parquet;
pub(crate) use problem::lines;
pub use problem::{BadRows, Problem, RowError, Tolerated};
pub use row::{Row, Value};
pub(crate) use row::{display, mismatch as row_mismatch};

/// What is read next: a row, or what is wrong with it. The outer error ends the file.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Result<Row, Problem>>> + 'a>;

/// Something that yields rows in a fixed order.
pub trait Source: Send + Sync {
    /// The file, or the name of what generates the rows.
    fn path(&self) -> &Path;

    /// The rows from the first one on.
    ///
    /// # Errors
    /// A file that cannot be opened, or is not what its name says.
    fn rows(&self) -> Result<Rows<'_>>;
}

/// Opens a file by the ending of its name: `.csv`, `.tsv`, `.jsonl` (`.ndjson`) or `.parquet`.
///
/// # Errors
/// Another ending, or a file that is not there.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default();
    let source: Box<dyn Source> = match ending.to_ascii_lowercase().as_str() {
        "csv" => Box::new(Delimited::csv(path)),
        "tsv" => Box::new(Delimited::tsv(path)),
        "jsonl" | "ndjson" => Box::new(JsonLines::new(path)),
        "parquet" => Box::new(Parquet::new(path)),
        _ => {
            let reason = format!(
                "found a name that ends in {ending:?}, expected csv, tsv, jsonl, ndjson or parquet"
            );
            return Err(DataError::File {
                path: path.to_owned(),
                reason,
            });
        }
    };
    std::fs::metadata(path).map_err(|source| DataError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(source)
}

/// Rows that are in memory, for generated tasks and requests.
#[derive(Debug, Clone)]
pub struct Table {
    name: PathBuf,
    rows: Vec<Row>,
}

impl Table {
    /// Rows under a name that messages use.
    pub fn new(name: impl Into<PathBuf>, rows: Vec<Row>) -> Self {
        Self {
            name: name.into(),
            rows,
        }
    }

    /// The rows.
    pub fn as_slice(&self) -> &[Row] {
        &self.rows
    }
}

impl Source for Table {
    fn path(&self) -> &Path {
        &self.name
    }

    fn rows(&self) -> Result<Rows<'_>> {
        Ok(Box::new(self.rows.iter().map(|row| Ok(Ok(row.clone())))))
    }
}
