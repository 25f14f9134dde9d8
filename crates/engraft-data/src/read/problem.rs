//! Rows that cannot be used: what is wrong with each, and how many are tolerated.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::error::{DataError, Result};

/// What is wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RowError {
    /// A delimited row of another width than the header.
    #[error("found {found} fields, expected {expected}")]
    Width {
        /// Fields of the row.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A quoted field goes on after its closing quote.
    #[error(
        "field {field}: found {found:?} after the closing quote, expected a delimiter or the end of the line"
    )]
    AfterQuote {
        /// Which field, counted from 1.
        field: usize,
        /// What follows.
        found: char,
    },
    /// Bytes that are not UTF-8.
    #[error("found bytes that are not UTF-8, at byte {at} of the row")]
    Utf8 {
        /// Where.
        at: usize,
    },
    /// Not JSON.
    #[error("not valid JSON: {0}")]
    Json(String),
    /// JSON, but not an object.
    #[error("found {0}, expected a JSON object with a value for each column")]
    NotAnObject(&'static str),
    /// This row lacks a column that others have.
    #[error("column {column} is missing{nearest}")]
    Missing {
        /// The column.
        column: String,
        /// The nearest name, as the end of the sentence.
        nearest: String,
    },
    /// A value of another type.
    #[error("column {column}: found {found}, expected {expected}")]
    Type {
        /// The column.
        column: String,
        /// The value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A label that the task does not have.
    #[error("column {column}: found label {found}, expected one of {known}{nearest}")]
    UnknownLabel {
        /// The column.
        column: String,
        /// The label.
        found: String,
        /// Those of the task.
        known: String,
        /// The nearest one, as the end of the sentence.
        nearest: String,
    },
    /// As many tags as tokens are needed.
    #[error("found {tokens} tokens with {tags} tags, expected as many tags as tokens")]
    Tags {
        /// Tokens of the row.
        tokens: usize,
        /// Tags of the row.
        tags: usize,
    },
    /// Nothing is left to learn from.
    #[error("the prompt takes {prompt} of at most {max} tokens, expected room for the answer")]
    NoRoom {
        /// Tokens of the prompt.
        prompt: usize,
        /// Largest length.
        max: usize,
    },
    /// Text without a single token.
    #[error("found no tokens in the text, expected at least one")]
    NoTokens,
    /// A conversation in which nobody answers.
    #[error("found no message of the assistant, expected at least one")]
    NoAnswer,
    /// The tokenizer failed on this row.
    #[error("the tokenizer refused it: {0}")]
    Tokenizer(String),
    /// An image that cannot be decoded, or a file that is not one.
    #[error("{0}")]
    Image(String),
}

/// A row that cannot be used, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Its line, or the row's number in a file without lines; counted from 1.
    pub line: u64,
    /// What is wrong.
    pub reason: RowError,
}

impl Problem {
    /// What is wrong with a line of a file.
    pub fn new(path: &Path, line: u64, reason: RowError) -> Self {
        Self {
            path: path.to_owned(),
            line,
            reason,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.reason)
    }
}

/// One problem a line, at most 20, each after a line break.
pub(crate) fn lines(problems: &[Problem]) -> String {
    let mut text: String = problems
        .iter()
        .take(20)
        .map(|problem| format!("\n  {problem}"))
        .collect();
    if problems.len() > 20 {
        text += &format!("\n  and {} more", problems.len() - 20);
    }
    text
}

/// How many unusable rows are left out, each reported, before reading fails. By default none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BadRows(pub usize);

impl BadRows {
    /// No problems yet.
    pub fn start(self) -> Tolerated {
        Tolerated {
            limit: self.0,
            problems: Vec::new(),
        }
    }
}

/// The unusable rows so far.
#[derive(Debug, Clone)]
pub struct Tolerated {
    limit: usize,
    problems: Vec<Problem>,
}

impl Tolerated {
    /// Adds one.
    ///
    /// # Errors
    /// [`DataError::BadRows`] if it is one too many.
    pub fn add(&mut self, problem: Problem) -> Result<()> {
        self.problems.push(problem);
        if self.problems.len() <= self.limit {
            return Ok(());
        }
        let problems = std::mem::take(&mut self.problems);
        Err(DataError::BadRows {
            limit: self.limit,
            problems,
        })
    }

    /// All of them, in the order of the rows.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}
