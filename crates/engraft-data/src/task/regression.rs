//! One text or two, one number.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metric::Metric;
use crate::read::{Row, RowError};
use crate::task::columns::Columns;
use crate::task::inputs::Inputs;
use crate::task::{Encode, Output, Prepared};
use crate::text::{Example, Target};
use crate::tokens::Tokens;

/// A text, or a pair of texts, and a number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Regression {
    /// The column of the text, or of the first of a pair.
    pub text: Option<String>,
    /// The column of the second text; by default there is one if the columns are those of a pair.
    pub second: Option<String>,
    /// The column of the number.
    pub label: Option<String>,
}

impl Regression {
    pub(super) fn prepare(&self, columns: &Columns) -> Result<Prepared> {
        let inputs = one_or_two(columns, self.text.as_deref(), self.second.as_deref())?;
        let label = columns.label(self.label.as_deref())?;
        let metrics = [Metric::Pearson, Metric::Spearman];
        Ok(Prepared::new(
            Numbers { inputs, label },
            Output::Number,
            &metrics,
        ))
    }
}

/// A pair if its second column is named or both columns have usual names, otherwise one text.
pub(super) fn one_or_two(
    columns: &Columns,
    text: Option<&str>,
    second: Option<&str>,
) -> Result<Inputs> {
    if text.is_some() && second.is_none() {
        return Ok(Inputs {
            first: columns.text(text)?,
            second: None,
        });
    }
    match columns.pair(text, second) {
        Ok((first, second)) => Ok(Inputs {
            first,
            second: Some(second),
        }),
        Err(error) if second.is_some() => Err(error),
        Err(_) => Ok(Inputs {
            first: columns.text(text)?,
            second: None,
        }),
    }
}

struct Numbers {
    inputs: Inputs,
    label: String,
}

impl Encode for Numbers {
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError> {
        let mut example = self.inputs.encode(row, tokens)?;
        if labelled {
            example.target = Target::Values(vec![row.number(&self.label)? as f32]);
        }
        Ok(example)
    }
}
