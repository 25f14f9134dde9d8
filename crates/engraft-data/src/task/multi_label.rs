//! One text or two, any number of classes.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metric::Metric;
use crate::read::{Row, RowError, Source, Value, row_mismatch};
use crate::task::columns::Columns;
use crate::task::inputs::Inputs;
use crate::task::regression::one_or_two;
use crate::task::{Encode, Labels, Output, Prepared};
use crate::text::{Example, Target};
use crate::tokens::Tokens;

/// A text, or a pair of texts, and the classes that apply to it: either a column with a list of
/// labels (in delimited files, names with `separator` between them), or a column of 0 and 1 for
/// each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MultiLabel {
    /// The column of the text, or of the first of a pair.
    pub text: Option<String>,
    /// The column of the second text.
    pub second: Option<String>,
    /// The column with the list of labels.
    pub label: Option<String>,
    /// The labels, in the order of the classes; otherwise those of the file.
    pub labels: Option<Vec<String>>,
    /// What separates labels within a text.
    pub separator: char,
    /// A column of 0 and 1 for each class, which names the class; replaces `label` and `labels`.
    pub indicators: Vec<String>,
}

impl Default for MultiLabel {
    fn default() -> Self {
        Self {
            text: None,
            second: None,
            label: None,
            labels: None,
            separator: ',',
            indicators: Vec::new(),
        }
    }
}

impl MultiLabel {
    pub(super) fn prepare(&self, source: &dyn Source, columns: &Columns) -> Result<Prepared> {
        let inputs = one_or_two(columns, self.text.as_deref(), self.second.as_deref())?;
        let (labels, marks) = if self.indicators.is_empty() {
            let column = columns.label(self.label.as_deref())?;
            let marks = Marks::List {
                column: column.clone(),
                separator: self.separator,
            };
            let divide =
                |value: &Value| elements(&column, value, self.separator).unwrap_or_default();
            (
                Labels::given_or_found(self.labels.as_deref(), source, &column, divide)?,
                marks,
            )
        } else {
            self.indicators
                .iter()
                .try_for_each(|name| columns.given(name).map(|_| ()))?;
            (Labels::new(self.indicators.clone())?, Marks::Indicators)
        };
        let encoder = Set {
            inputs,
            marks,
            labels: labels.clone(),
        };
        let metrics = [Metric::MicroF1, Metric::MacroF1, Metric::Accuracy];
        Ok(Prepared::new(encoder, Output::Classes, &metrics).with_labels(labels))
    }
}

enum Marks {
    List { column: String, separator: char },
    Indicators,
}

struct Set {
    inputs: Inputs,
    marks: Marks,
    labels: Labels,
}

impl Encode for Set {
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError> {
        let mut example = self.inputs.encode(row, tokens)?;
        if !labelled {
            return Ok(example);
        }
        let mut values = vec![0.0; self.labels.len()];
        match &self.marks {
            Marks::List { column, separator } => {
                for label in elements(column, row.value(column)?, *separator)? {
                    values[self.labels.index(column, &label)? as usize] = 1.0;
                }
            }
            Marks::Indicators => {
                for (column, value) in self.labels.names().iter().zip(&mut values) {
                    let held = row.value(column)?;
                    *value = match (row.number(column), held) {
                        (Ok(0.0), _) | (_, Value::Bool(false)) => 0.0,
                        (Ok(1.0), _) | (_, Value::Bool(true)) => 1.0,
                        _ => return Err(row_mismatch(column, held, "0 or 1")),
                    };
                }
            }
        }
        example.target = Target::Values(values);
        Ok(example)
    }
}

/// The labels of a value: those of a list, or of a text with separators; none of an empty text.
fn elements(column: &str, value: &Value, separator: char) -> Result<Vec<Value>, RowError> {
    match value {
        Value::Array(labels) => Ok(labels.clone()),
        Value::String(text) => {
            let labels = text
                .split(separator)
                .map(str::trim)
                .filter(|label| !label.is_empty());
            Ok(labels.map(Value::from).collect())
        }
        Value::Number(_) => Ok(vec![value.clone()]),
        other => Err(row_mismatch(column, other, "a list of labels")),
    }
}
