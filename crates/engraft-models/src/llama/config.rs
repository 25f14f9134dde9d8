//! Configurations of Llama and its relatives.

use engraft_core::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::activation::Activation;
use crate::decoder::{HeadConfig, RmsNormConfig, Rope};
use crate::shapes::{bad, padding_token, parse};

/// The configuration of a Llama, Mistral, Qwen2, Qwen3 or Gemma, from its `config.json`.
#[derive(Debug, Clone)]
pub struct LlamaConfig {
    pub(crate) json: Value,
    /// Width of the hidden states.
    pub width: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) head_width: usize,
    pub(crate) activation: Activation,
    pub(crate) norm: RmsNormConfig,
    /// Whether heads of queries and keys are normalised.
    pub(crate) head_norms: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) attention_dropout: f64,
    /// How many tokens each block sees, itself included; `None` is all.
    pub(crate) windows: Vec<Option<usize>>,
    pub(crate) rope: Rope,
    pub(crate) head: HeadConfig,
    /// What embedded tokens are multiplied with.
    pub(crate) embedding_scale: Option<f64>,
    /// The token of padding, whose embedding learns nothing.
    pub(crate) padding: Option<usize>,
    std: f64,
}

#[derive(Deserialize)]
struct Keys {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    max_position_embeddings: Option<usize>,
    initializer_range: Option<f64>,
    rms_norm_eps: Option<f64>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    attention_dropout: Option<f64>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
}

const FAMILY: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma"];

impl LlamaConfig {
    /// Reads a `config.json`. Keys that are missing have the defaults of `transformers`.
    ///
    /// # Errors
    /// Another `model_type`, keys that are missing or of the wrong type, sizes that do not fit
    /// together.
    pub fn new(json: &Value) -> Result<Self> {
        let keys: Keys = parse(json)?;
        let is = |name: &str| keys.model_type == name;
        if !FAMILY.contains(&keys.model_type.as_str()) {
            return Err(bad(format!(
                "found model_type `{}`, expected one of {}",
                keys.model_type,
                FAMILY.join(", ")
            )));
        }
        let heads = keys.num_attention_heads;
        let key_heads = keys.num_key_value_heads.unwrap_or(heads);
        if heads == 0 || key_heads == 0 || !heads.is_multiple_of(key_heads) {
            return Err(bad(format!(
                "found {heads} heads and {key_heads} heads of keys, expected a multiple"
            )));
        }
        let head_width = keys.head_dim.unwrap_or(keys.hidden_size / heads);
        let longest = keys
            .max_position_embeddings
            .unwrap_or(match &*keys.model_type {
                "llama" => 2048,
                "mistral" => 4096 * 32,
                "gemma" => 8192,
                _ => 32_768,
            });
        let bias = keys.attention_bias.unwrap_or(false) && !is("mistral");
        // Gemma's files say `gelu` and mean the approximation.
        let activation = match keys.hidden_activation.as_ref().or(keys.hidden_act.as_ref()) {
            Some(name) if is("gemma") && name == "gelu" => "gelu_pytorch_tanh",
            Some(name) => name,
            None if is("gemma") => "gelu_pytorch_tanh",
            None => "silu",
        };
        Ok(Self {
            width: keys.hidden_size,
            vocabulary: keys.vocab_size,
            inner: keys.intermediate_size,
            heads,
            key_heads,
            head_width,
            activation: Activation::named(activation)?,
            norm: RmsNormConfig {
                epsilon: keys.rms_norm_eps.unwrap_or(1e-6),
                from_one: is("gemma"),
            },
            head_norms: is("qwen3"),
            qkv_bias: bias || is("qwen2"),
            output_bias: bias && !is("qwen2"),
            mlp_bias: keys.mlp_bias.unwrap_or(false) && is("llama"),
            attention_dropout: keys.attention_dropout.unwrap_or(0.0),
            windows: windows(json, &keys)?,
            rope: Rope::new(json, head_width, longest)?,
            head: HeadConfig::new(json, is("gemma"), "score")?,
            embedding_scale: is("gemma").then(|| (keys.hidden_size as f64).sqrt()),
            std: keys.initializer_range.unwrap_or(0.02),
            padding: padding_token(json, is("gemma").then_some(0)),
            json: json.clone(),
        })
    }

    /// Standard deviation of fresh weights.
    pub(crate) fn std(&self) -> f64 {
        self.std
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.windows.len()
    }

    /// The configuration of the model that has these blocks of this one in this order.
    pub(crate) fn with_blocks(&self, blocks: &[usize]) -> Self {
        let mut config = self.clone();
        config.windows = blocks.iter().map(|index| self.windows[*index]).collect();
        config.json["num_hidden_layers"] = json!(blocks.len());
        if let Some(types) = self.json["layer_types"].as_array() {
            config.json["layer_types"] = blocks.iter().map(|index| types[*index].clone()).collect();
        }
        config
    }
}

/// The window of each block.
fn windows(json: &Value, keys: &Keys) -> Result<Vec<Option<usize>>> {
    let blocks = keys.num_hidden_layers;
    let window = match json.get("sliding_window") {
        None => Some(4096),
        Some(window) => window.as_u64().map(|window| window as usize),
    };
    let window = match keys.model_type.as_str() {
        "mistral" => return Ok(vec![window; blocks]),
        "qwen2" | "qwen3" if keys.use_sliding_window => window,
        _ => None,
    };
    match &keys.layer_types {
        Some(types) if types.len() != blocks => Err(bad(format!(
            "found {} layer_types, expected one for each of {blocks} layers",
            types.len()
        ))),
        Some(types) => {
            let window = |kind: &String| window.filter(|_| kind == "sliding_attention");
            Ok(types.iter().map(window).collect())
        }
        None => {
            let full = keys.max_window_layers.unwrap_or(28);
            Ok((0..blocks)
                .map(|at| window.filter(|_| at >= full))
                .collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(model_type: &str, more: Value) -> Result<LlamaConfig> {
        let mut json = json!({"model_type": model_type, "vocab_size": 11, "hidden_size": 8,
            "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2});
        let more = more.as_object().unwrap().clone();
        json.as_object_mut().unwrap().extend(more);
        LlamaConfig::new(&json)
    }

    #[test]
    fn windows_are_those_of_transformers() {
        let windows = |model_type, more| config(model_type, more).unwrap().windows;
        assert_eq!(windows("llama", json!({"sliding_window": 5})), [None; 3]);
        assert_eq!(windows("mistral", json!({})), [Some(4096); 3]);
        assert_eq!(
            windows("mistral", json!({"sliding_window": null})),
            [None; 3]
        );
        let qwen = json!({"sliding_window": 5, "max_window_layers": 1});
        assert_eq!(windows("qwen2", qwen), [None; 3]);
        let used = json!({"sliding_window": 5, "max_window_layers": 1, "use_sliding_window": true});
        assert_eq!(windows("qwen2", used), [None, Some(5), Some(5)]);
        let types = json!({"sliding_window": 5, "use_sliding_window": true,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]});
        let typed = config("qwen3", types).unwrap();
        assert_eq!(typed.windows, [Some(5), None, Some(5)]);
        let replicated = typed.with_blocks(&[0, 1, 1]);
        assert_eq!(replicated.windows, [Some(5), None, None]);
        assert_eq!(
            LlamaConfig::new(&replicated.json).unwrap().windows,
            replicated.windows
        );
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let message = |more| config("llama", more).unwrap_err().to_string();
        assert!(message(json!({"num_key_value_heads": 3})).contains("a multiple"));
        assert!(message(json!({"hidden_act": "sillu"})).contains("nearest: silu"));
        assert!(
            message(json!({"architectures": ["LlamaForQuestionAnswering"]}))
                .contains("ForCausalLM")
        );
        assert!(config("gemma3", json!({})).is_err());
    }
}
