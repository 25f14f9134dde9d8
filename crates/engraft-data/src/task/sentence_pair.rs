//! Two texts, one class.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::read::Source;
use crate::task::Prepared;
use crate::task::columns::Columns;
use crate::task::inputs::Inputs;
use crate::task::single_sentence::classes;

/// Two texts and the class of their relation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SentencePair {
    /// The column of the first text.
    pub first: Option<String>,
    /// The column of the second text.
    pub second: Option<String>,
    /// The column of the label.
    pub label: Option<String>,
    /// The labels, in the order of the classes; otherwise those of the file.
    pub labels: Option<Vec<String>>,
}

impl SentencePair {
    pub(super) fn prepare(&self, source: &dyn Source, columns: &Columns) -> Result<Prepared> {
        let (first, second) = columns.pair(self.first.as_deref(), self.second.as_deref())?;
        let inputs = Inputs {
            first,
            second: Some(second),
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
