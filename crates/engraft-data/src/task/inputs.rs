//! One text or a pair of texts.

use tokenizers::Encoding;

use crate::read::{Row, RowError};
use crate::text::{Example, Target};
use crate::tokens::Tokens;

/// The columns of a text or of a pair.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    pub first: String,
    pub second: Option<String>,
}

impl Inputs {
    /// The encoded text of a row, without a target.
    pub fn encode(&self, row: &Row, tokens: &Tokens) -> Result<Example, RowError> {
        let first = row.text(&self.first)?;
        let encoding = match &self.second {
            None => tokens.text(first, true)?,
            Some(second) => tokens.pair(first, row.text(second)?)?,
        };
        example(row, &encoding)
    }
}

/// An encoded text without a target.
pub(super) fn example(row: &Row, encoding: &Encoding) -> Result<Example, RowError> {
    if encoding.is_empty() {
        return Err(RowError::NoTokens);
    }
    Ok(Example {
        line: row.line,
        ids: encoding.get_ids().to_vec(),
        segments: encoding
            .get_type_ids()
            .iter()
            .map(|segment| *segment as u8)
            .collect(),
        target: Target::None,
        truncated: !encoding.get_overflowing().is_empty(),
    })
}
