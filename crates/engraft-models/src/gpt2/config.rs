//! Configurations of GPT-2.

use engraft_core::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::activation::Activation;
use crate::decoder::HeadConfig;
use crate::shapes::{bad, parse};

/// The configuration of a GPT-2, from its `config.json`.
#[derive(Debug, Clone)]
pub struct Gpt2Config {
    pub(crate) json: Value,
    /// Width of the hidden states.
    pub width: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Longest sequence.
    pub positions: usize,
    pub(crate) blocks: usize,
    pub(crate) heads: usize,
    pub(crate) inner: usize,
    pub(crate) activation: Activation,
    pub(crate) epsilon: f64,
    std: f64,
    /// Whether scores are divided by the square root of the heads' width.
    scale_by_width: bool,
    /// Whether scores are divided by the number of the block, counted from 1.
    scale_by_block: bool,
    pub(crate) embedding_dropout: f64,
    pub(crate) attention_dropout: f64,
    pub(crate) residual_dropout: f64,
    pub(crate) head: HeadConfig,
}

#[derive(Deserialize)]
struct Keys {
    model_type: String,
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    activation_function: Option<String>,
    layer_norm_epsilon: Option<f64>,
    initializer_range: Option<f64>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    add_cross_attention: Option<bool>,
    embd_pdrop: Option<f64>,
    attn_pdrop: Option<f64>,
    resid_pdrop: Option<f64>,
}

impl Gpt2Config {
    /// Reads a `config.json`. Keys that are missing have the defaults of `transformers`.
    ///
    /// # Errors
    /// Another `model_type`, keys that are missing or of the wrong type, sizes that do not fit
    /// together.
    pub fn new(json: &Value) -> Result<Self> {
        let keys: Keys = parse(json)?;
        let (width, heads) = (keys.n_embd, keys.n_head);
        if keys.model_type != "gpt2" {
            return Err(bad(format!(
                "found model_type `{}`, expected gpt2",
                keys.model_type
            )));
        }
        if heads == 0 || width % heads != 0 {
            return Err(bad(format!(
                "found n_embd {width} and n_head {heads}, expected a multiple"
            )));
        }
        if keys.add_cross_attention == Some(true) {
            return Err(bad(
                "found add_cross_attention, expected a decoder without".into()
            ));
        }
        let activation = keys.activation_function.as_deref().unwrap_or("gelu_new");
        Ok(Self {
            width,
            vocabulary: keys.vocab_size,
            positions: keys.n_positions,
            blocks: keys.n_layer,
            heads,
            inner: keys.n_inner.unwrap_or(4 * width),
            activation: Activation::named(activation)?,
            epsilon: keys.layer_norm_epsilon.unwrap_or(1e-5),
            std: keys.initializer_range.unwrap_or(0.02),
            scale_by_width: keys.scale_attn_weights.unwrap_or(true),
            scale_by_block: keys.scale_attn_by_inverse_layer_idx.unwrap_or(false),
            embedding_dropout: keys.embd_pdrop.unwrap_or(0.1),
            attention_dropout: keys.attn_pdrop.unwrap_or(0.1),
            residual_dropout: keys.resid_pdrop.unwrap_or(0.1),
            head: HeadConfig::new(json, true, "classifier")?,
            json: json.clone(),
        })
    }

    /// Standard deviation of fresh weights.
    pub(crate) fn std(&self) -> f64 {
        self.std
    }

    /// What the scores of a block are multiplied with.
    pub(crate) fn scale(&self, block: usize) -> f64 {
        let width = (self.width / self.heads) as f64;
        let scale = if self.scale_by_width {
            width.sqrt().recip()
        } else {
            1.0
        };
        match self.scale_by_block {
            true => scale / (block + 1) as f64,
            false => scale,
        }
    }
}
