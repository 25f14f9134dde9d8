//! A class for each word.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metric::Metric;
use crate::read::{Row, RowError, Source, Value, row_mismatch};
use crate::task::columns::{Columns, TAGS, TOKENS};
use crate::task::inputs::example;
use crate::task::{Encode, Labels, Output, Prepared};
use crate::text::{Example, IGNORED, Target};
use crate::tokens::Tokens;

/// Words and a tag for each: lists, or texts with white space between. A word's tag is the label of
/// its first token; its other tokens and special tokens are ignored. Words that truncation cuts off
/// are ignored too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TokenClassification {
    /// The column of the words.
    pub tokens: Option<String>,
    /// The column of the tags.
    pub tags: Option<String>,
    /// The tags, in the order of the classes; otherwise those of the file.
    pub labels: Option<Vec<String>>,
}

impl TokenClassification {
    pub(super) fn prepare(&self, source: &dyn Source, columns: &Columns) -> Result<Prepared> {
        let words = columns.pick(self.tokens.as_deref(), "tokens", TOKENS)?;
        let tags = columns.pick(self.tags.as_deref(), "tags", TAGS)?;
        let divide = |value: &Value| elements(&tags, value).unwrap_or_default();
        let labels = Labels::given_or_found(self.labels.as_deref(), source, &tags, divide)?;
        let encoder = Tags {
            words,
            tags,
            labels: labels.clone(),
        };
        let metrics = [Metric::Accuracy, Metric::MacroF1];
        Ok(Prepared::new(encoder, Output::TokenClass, &metrics).with_labels(labels))
    }
}

struct Tags {
    words: String,
    tags: String,
    labels: Labels,
}

impl Encode for Tags {
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError> {
        let words = elements(&self.words, row.value(&self.words)?)?
            .into_iter()
            .map(|word| match word {
                Value::String(word) => Ok(word),
                other => Err(row_mismatch(&self.words, &other, "a list of texts")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let encoding = tokens.words(&words)?;
        let mut example = example(row, &encoding)?;
        if !labelled {
            return Ok(example);
        }
        let tags = elements(&self.tags, row.value(&self.tags)?)?;
        if tags.len() != words.len() {
            return Err(RowError::Tags {
                tokens: words.len(),
                tags: tags.len(),
            });
        }
        let classes = tags
            .iter()
            .map(|tag| self.labels.index(&self.tags, tag))
            .collect::<Result<Vec<_>, _>>()?;
        let mut before = None;
        let label = |word: &Option<u32>| {
            let is_first = *word != before;
            before = *word;
            match word {
                Some(word) if is_first => i64::from(classes[*word as usize]),
                _ => IGNORED,
            }
        };
        example.target = Target::Tokens(encoding.get_word_ids().iter().map(label).collect());
        Ok(example)
    }
}

fn elements(column: &str, value: &Value) -> Result<Vec<Value>, RowError> {
    match value {
        Value::Array(elements) => Ok(elements.clone()),
        Value::String(text) => Ok(text.split_whitespace().map(Value::from).collect()),
        other => Err(row_mismatch(column, other, "a list")),
    }
}
