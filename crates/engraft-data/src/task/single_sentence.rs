//! One text, one class.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metric::Metric;
use crate::read::{Row, RowError, Source};
use crate::task::columns::Columns;
use crate::task::inputs::Inputs;
use crate::task::{Encode, Labels, Output, Prepared};
use crate::text::{Example, Target};
use crate::tokens::Tokens;

/// A text and its class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SingleSentence {
    /// The column of the text.
    pub text: Option<String>,
    /// The column of the label.
    pub label: Option<String>,
    /// The labels, in the order of the classes; otherwise those of the file.
    pub labels: Option<Vec<String>>,
}

impl SingleSentence {
    pub(super) fn prepare(&self, source: &dyn Source, columns: &Columns) -> Result<Prepared> {
        let inputs = Inputs {
            first: columns.text(self.text.as_deref())?,
            second: None,
        };
        classes(
            inputs,
            self.label.as_deref(),
            self.labels.as_deref(),
            source,
            columns,
        )
    }
}

/// One text or two, one class.
pub(super) fn classes(
    inputs: Inputs,
    label: Option<&str>,
    labels: Option<&[String]>,
    source: &dyn Source,
    columns: &Columns,
) -> Result<Prepared> {
    let label = columns.label(label)?;
    let labels = Labels::given_or_found(labels, source, &label, |value| vec![value.clone()])?;
    let metrics = match labels.len() {
        2 => [Metric::Accuracy, Metric::F1],
        _ => [Metric::Accuracy, Metric::MacroF1],
    };
    let encoder = Classes {
        inputs,
        label,
        labels: labels.clone(),
    };
    Ok(Prepared::new(encoder, Output::Class, &metrics).with_labels(labels))
}

struct Classes {
    inputs: Inputs,
    label: String,
    labels: Labels,
}

impl Encode for Classes {
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError> {
        let mut example = self.inputs.encode(row, tokens)?;
        if labelled {
            let class = self.labels.index(&self.label, row.value(&self.label)?)?;
            example.target = Target::Class(class);
        }
        Ok(example)
    }
}
