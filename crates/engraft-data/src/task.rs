//! Tasks on text: which columns they read, what a row becomes, and what is measured.
//!
//! A [`Task`] is a setting; [`Task::prepare`] settles it for a file: its columns, found by their
//! usual names where the setting leaves them open, and its labels. The [`Prepared`] task then
//! encodes rows of that file and of others (validation, test, requests) in the same way.

mod causal;
mod columns;
mod inputs;
mod instruction;
mod labels;
mod masked;
mod multi_label;
mod regression;
mod sentence_pair;
mod single_sentence;
mod template;
mod token_classification;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::metric::Metric;
use crate::read::{Row, RowError, Source};
use crate::text::Example;
use crate::tokens::Tokens;

pub use causal::CausalLanguage;
pub use instruction::Instruction;
pub use labels::Labels;
pub use masked::{MaskedLanguage, Masking};
pub use multi_label::MultiLabel;
pub use regression::Regression;
pub use sentence_pair::SentencePair;
pub use single_sentence::SingleSentence;
pub use token_classification::TokenClassification;

use columns::Columns;

/// What is learned from text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Task {
    /// One text, one class.
    SingleSentence(SingleSentence),
    /// Two texts, one class.
    SentencePair(SentencePair),
    /// One text or two, one number.
    Regression(Regression),
    /// One text or two, any number of classes.
    MultiLabel(MultiLabel),
    /// A class for each word.
    TokenClassification(TokenClassification),
    /// The next token, from those before it.
    CausalLanguage(CausalLanguage),
    /// Hidden tokens, from those around them.
    MaskedLanguage(MaskedLanguage),
    /// The answer to a prompt, or the assistant's part of a conversation.
    Instruction(Instruction),
}

/// Turns rows into examples.
pub(crate) trait Encode: Send + Sync {
    /// The example of a row; without its label if `labelled` is false, so that the label's column
    /// need not be there.
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError>;
}

/// What a model computes for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// A class for each sequence.
    Class,
    /// A number for each sequence.
    Number,
    /// A truth value for each label of a sequence.
    Classes,
    /// A class for each token.
    TokenClass,
    /// The token after each token.
    NextToken,
    /// The tokens that are masked.
    MaskedToken,
}

/// A task that is settled for a file.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) encoder: Arc<dyn Encode>,
    /// The names of its classes; empty where there are none.
    pub labels: Labels,
    /// What a model computes.
    pub output: Output,
    /// What is measured, the most telling first.
    pub metrics: Vec<Metric>,
    /// Whether texts are joined and cut into blocks of the largest length.
    pub(crate) packed: bool,
    /// Which tokens are hidden, if any.
    pub(crate) masking: Option<Masking>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("output", &self.output)
            .field("labels", &self.labels)
            .finish()
    }
}

impl Prepared {
    fn new(encoder: impl Encode + 'static, output: Output, metrics: &[Metric]) -> Self {
        Self {
            encoder: Arc::new(encoder),
            labels: Labels::default(),
            output,
            metrics: metrics.to_vec(),
            packed: false,
            masking: None,
        }
    }

    fn with_labels(self, labels: Labels) -> Self {
        Self { labels, ..self }
    }

    /// Outputs that a classifier's head needs; 0 where the outputs are the vocabulary.
    pub fn outputs(&self) -> usize {
        match self.output {
            Output::Number => 1,
            Output::NextToken | Output::MaskedToken => 0,
            Output::Class | Output::Classes | Output::TokenClass => self.labels.len(),
        }
    }

    /// Checks that a head has an output for every label.
    ///
    /// # Errors
    /// [`DataError::TooManyLabels`] with both numbers.
    pub fn check_head(&self, outputs: usize) -> Result<()> {
        if self.outputs() <= outputs {
            return Ok(());
        }
        let labels = crate::names::listed(self.labels.names().iter().map(String::as_str));
        Err(DataError::TooManyLabels {
            found: self.outputs(),
            labels,
            expected: outputs,
        })
    }
}

impl Task {
    /// Settles the task for a file: finds its columns from the first usable row and, unless the
    /// setting names them, its labels from all rows.
    ///
    /// # Errors
    /// A file without rows, a column that is missing (with the nearest name), labels of mixed types,
    /// or a tokenizer that lacks what the task needs.
    pub fn prepare(&self, source: &dyn Source, tokens: &Tokens) -> Result<Prepared> {
        self.prepare_columns(source, tokens, &Columns::of(source)?)
    }

    /// Settles the task for a file of requests, whose columns of labels need not be there; the
    /// setting names the labels.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_requests(&self, source: &dyn Source, tokens: &Tokens) -> Result<Prepared> {
        self.prepare_columns(source, tokens, &Columns::of(source)?.of_requests())
    }

    /// The same task with its labels named.
    pub fn with_labels(mut self, names: &[String]) -> Self {
        let labels = match &mut self {
            Self::SingleSentence(task) => &mut task.labels,
            Self::SentencePair(task) => &mut task.labels,
            Self::TokenClassification(task) => &mut task.labels,
            Self::MultiLabel(task) if task.indicators.is_empty() => &mut task.labels,
            _ => return self,
        };
        *labels = Some(names.to_vec());
        self
    }

    fn prepare_columns(
        &self,
        source: &dyn Source,
        tokens: &Tokens,
        columns: &Columns,
    ) -> Result<Prepared> {
        match self {
            Self::SingleSentence(task) => task.prepare(source, columns),
            Self::SentencePair(task) => task.prepare(source, columns),
            Self::Regression(task) => task.prepare(columns),
            Self::MultiLabel(task) => task.prepare(source, columns),
            Self::TokenClassification(task) => task.prepare(source, columns),
            Self::CausalLanguage(task) => task.prepare(columns),
            Self::MaskedLanguage(task) => task.prepare(columns, tokens),
            Self::Instruction(task) => task.prepare(columns, tokens),
        }
    }

    /// The kind of task that a file's columns and first row suggest, with default settings.
    ///
    /// # Errors
    /// A file without rows, or columns that suggest nothing.
    pub fn guess(source: &dyn Source) -> Result<Self> {
        let columns = Columns::of(source)?;
        if columns.suggest_instruction() {
            return Ok(Self::Instruction(Instruction::default()));
        }
        if columns.suggest_tokens() {
            return Ok(Self::TokenClassification(TokenClassification::default()));
        }
        let pair = columns.pair(None, None).is_ok();
        match columns.label(None) {
            Err(_) => {
                columns.text(None)?;
                Ok(Self::CausalLanguage(CausalLanguage::default()))
            }
            Ok(label) => Ok(match columns.first.value(&label).ok() {
                Some(value) if value.is_array() => Self::MultiLabel(MultiLabel::default()),
                Some(value) if labels::is_fraction(value) => {
                    Self::Regression(Regression::default())
                }
                _ if pair => Self::SentencePair(SentencePair::default()),
                _ => Self::SingleSentence(SingleSentence::default()),
            }),
        }
    }
}
