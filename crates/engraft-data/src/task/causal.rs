//! The next token, from those before it.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metric::Metric;
use crate::read::{Row, RowError};
use crate::task::columns::Columns;
use crate::task::inputs::example;
use crate::task::{Encode, Output, Prepared};
use crate::text::{Example, Target};
use crate::tokens::Tokens;

/// Texts to continue. Each ends with the end token, if the tokenizer has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CausalLanguage {
    /// The column of the text.
    pub text: Option<String>,
    /// Whether texts are joined and cut into blocks of the largest length (the last one may be
    /// shorter), so that nothing is padded or lost; otherwise each is an example, and long ones are
    /// truncated. Within a block, a text sees those before it.
    pub packed: bool,
}

impl Default for CausalLanguage {
    fn default() -> Self {
        Self {
            text: None,
            packed: true,
        }
    }
}

impl CausalLanguage {
    pub(super) fn prepare(&self, columns: &Columns) -> Result<Prepared> {
        let encoder = Continue {
            text: columns.text(self.text.as_deref())?,
            packed: self.packed,
        };
        let prepared = Prepared::new(encoder, Output::NextToken, &[Metric::Perplexity]);
        Ok(Prepared {
            packed: self.packed,
            ..prepared
        })
    }
}

struct Continue {
    text: String,
    packed: bool,
}

impl Encode for Continue {
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError> {
        let encoding = tokens.text(row.text(&self.text)?, true)?;
        let mut example = example(row, &encoding)?;
        if !labelled {
            return Ok(example);
        }
        // A truncated text does not end here.
        if let Some(eos) = tokens.special.eos
            && example.ids.last() != Some(&eos)
            && !example.truncated
            && (self.packed || tokens.cut().is_none_or(|max| example.ids.len() < max))
        {
            example.ids.push(eos);
            example.segments.push(0);
        }
        example.target = Target::Same;
        Ok(example)
    }
}
