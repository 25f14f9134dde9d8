//! Configuration of BERT and RoBERTa.

use engraft_core::{Result, check_dropout};
use serde::Deserialize;
use serde_json::Value;

use crate::activation::Activation;
use crate::shapes::{bad, padding_token, parse};
use crate::task::Task;

/// A `config.json` of BERT, RoBERTa or XLM-R.
#[derive(Debug, Clone)]
pub struct BertConfig {
    pub(super) keys: Keys,
    pub(super) activation: Activation,
    pub(super) task: Task,
    pub(crate) json: Value,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Keys {
    model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "tenth")]
    pub hidden_dropout_prob: f64,
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f64,
    classifier_dropout: Option<f64>,
    #[serde(default = "fiftieth")]
    initializer_range: f64,
    #[serde(default = "tiny")]
    pub layer_norm_eps: f64,
    pub tie_word_embeddings: Option<bool>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn tenth() -> f64 {
    0.1
}

fn fiftieth() -> f64 {
    0.02
}

fn tiny() -> f64 {
    1e-12
}

impl BertConfig {
    /// Reads the keys that the model needs; what `transformers` has a default for may be absent.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range, or a variant that is not
    /// implemented.
    pub fn new(json: &Value) -> Result<Self> {
        let keys: Keys = parse(json)?;
        let task = Task::of(json)?;
        for (name, value) in [
            ("vocab_size", keys.vocab_size),
            ("hidden_size", keys.hidden_size),
            ("num_attention_heads", keys.num_attention_heads),
            ("intermediate_size", keys.intermediate_size),
            ("max_position_embeddings", keys.max_position_embeddings),
        ] {
            if value == 0 {
                return Err(bad(format!("found {name} 0, expected at least 1")));
            }
        }
        if !keys.hidden_size.is_multiple_of(keys.num_attention_heads) {
            return Err(bad(format!(
                "found {} attention heads, expected a divisor of hidden_size {}",
                keys.num_attention_heads, keys.hidden_size
            )));
        }
        for (name, value) in [
            ("hidden_dropout_prob", keys.hidden_dropout_prob),
            (
                "attention_probs_dropout_prob",
                keys.attention_probs_dropout_prob,
            ),
            (
                "classifier_dropout",
                keys.classifier_dropout.unwrap_or_default(),
            ),
        ] {
            check_dropout(value).map_err(|reason| bad(format!("{name}: {reason}")))?;
        }
        match keys.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => {
                return Err(bad(format!(
                    "found position_embedding_type `{other}`, expected absolute"
                )));
            }
        }
        if keys.is_decoder {
            return Err(bad("found is_decoder true, expected an encoder".to_owned()));
        }
        if matches!(task, Task::Classification(0) | Task::Tokens(0)) {
            return Err(bad("found no labels, expected at least 1".to_owned()));
        }
        if matches!(task, Task::Language | Task::Other) {
            return Err(bad(format!(
                "found architectures {}, expected ...Model, ...ForSequenceClassification, \
                 ...ForTokenClassification or ...ForMaskedLM; another head can be chosen on loading",
                json["architectures"]
            )));
        }
        Ok(Self {
            activation: Activation::named(&keys.hidden_act)?,
            keys,
            task,
            json: json.clone(),
        })
    }

    /// Whether this is RoBERTa (or XLM-R): positions count tokens that are not padding, and the
    /// heads differ.
    pub(super) fn is_roberta(&self) -> bool {
        self.keys.model_type != "bert"
    }

    /// The prefix of the encoder's paths, with its dot; empty for a bare model.
    pub(super) fn prefix(&self) -> String {
        self.task.prefix(self.base())
    }

    /// What `transformers` calls the encoder inside a model with a head.
    pub(super) fn base(&self) -> &'static str {
        match self.is_roberta() {
            true => "roberta",
            false => "bert",
        }
    }

    pub(super) fn has_pooler(&self) -> bool {
        match self.task {
            Task::Bare => true,
            Task::Classification(_) => !self.is_roberta(),
            _ => false,
        }
    }

    pub(super) fn classifier_dropout(&self) -> f64 {
        let own = self.keys.classifier_dropout;
        own.unwrap_or(self.keys.hidden_dropout_prob)
    }

    /// Whether the output layer of masked language modelling is the table of word embeddings.
    pub(super) fn is_tied(&self) -> bool {
        self.keys.tie_word_embeddings.unwrap_or(true)
    }

    /// The token of padding, whose embedding learns nothing; RoBERTa gives it no position.
    pub(super) fn padding(&self) -> Option<usize> {
        padding_token(&self.json, Some(usize::from(self.is_roberta())))
    }

    /// The index of the position that padding has in RoBERTa.
    pub(super) fn padding_position(&self) -> Option<usize> {
        self.is_roberta().then(|| self.padding().unwrap_or(1))
    }

    /// Positions before the first token's.
    pub(super) fn first_position(&self) -> usize {
        self.padding_position().map_or(0, |padding| padding + 1)
    }

    pub(crate) fn std(&self) -> f64 {
        self.keys.initializer_range
    }
}
