//! Configuration of the vision transformer of `transformers`.

use engraft_core::{Result, check_dropout};
use serde::Deserialize;
use serde_json::Value;

use crate::activation::Activation;
use crate::shapes::{Sides, bad, parse};
use crate::task::Task;

/// A `config.json` of ViT.
#[derive(Debug, Clone)]
pub struct HfVitConfig {
    pub(super) keys: Keys,
    pub(super) image: [usize; 2],
    pub(super) patch: [usize; 2],
    pub(super) activation: Activation,
    pub(super) pooler_activation: Activation,
    pub(super) task: Task,
    pub(crate) json: Value,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Keys {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    image_size: Sides,
    patch_size: Sides,
    pub num_channels: usize,
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "tanh")]
    pooler_act: String,
    pub pooler_output_size: Option<usize>,
    #[serde(default)]
    pub hidden_dropout_prob: f64,
    #[serde(default)]
    pub attention_probs_dropout_prob: f64,
    #[serde(default = "fiftieth")]
    initializer_range: f64,
    #[serde(default = "tiny")]
    pub layer_norm_eps: f64,
}

fn yes() -> bool {
    true
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn tanh() -> String {
    "tanh".to_owned()
}

fn fiftieth() -> f64 {
    0.02
}

fn tiny() -> f64 {
    1e-12
}

impl HfVitConfig {
    /// Reads the keys that the model needs; what `transformers` has a default for may be absent.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range, or a head that is not implemented.
    pub fn new(json: &Value) -> Result<Self> {
        let keys: Keys = parse(json)?;
        let (image, patch) = (keys.image_size.both(), keys.patch_size.both());
        for (name, value) in [
            ("hidden_size", keys.hidden_size),
            ("num_attention_heads", keys.num_attention_heads),
            ("intermediate_size", keys.intermediate_size),
            ("num_channels", keys.num_channels),
            ("patch_size", patch[0].min(patch[1])),
        ] {
            if value == 0 {
                return Err(bad(format!("found {name} 0, expected at least 1")));
            }
        }
        if image[0] < patch[0] || image[1] < patch[1] {
            return Err(bad(format!(
                "found patch_size {patch:?}, expected at most image_size {image:?}"
            )));
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
        ] {
            check_dropout(value).map_err(|reason| bad(format!("{name}: {reason}")))?;
        }
        let task = Task::of(json)?;
        if !matches!(task, Task::Bare | Task::Classification(1..)) {
            return Err(bad(format!(
                "found architectures {}, expected ViTModel or ViTForImageClassification with at least \
                 one label; another head can be chosen on loading",
                json["architectures"]
            )));
        }
        Ok(Self {
            image,
            patch,
            activation: Activation::named(&keys.hidden_act)?,
            pooler_activation: Activation::named(&keys.pooler_act)?,
            keys,
            task,
            json: json.clone(),
        })
    }

    /// Patches in a column and in a row; what is left over of an image is not seen.
    pub(super) fn grid(&self) -> [usize; 2] {
        [self.image[0] / self.patch[0], self.image[1] / self.patch[1]]
    }

    pub(super) fn pooled_width(&self) -> usize {
        let own = self.keys.pooler_output_size.filter(|width| *width > 0);
        own.unwrap_or(self.keys.hidden_size)
    }

    /// The prefix of the encoder's paths, with its dot; empty for a bare model.
    pub(super) fn prefix(&self) -> String {
        self.task.prefix("vit")
    }

    pub(crate) fn std(&self) -> f64 {
        self.keys.initializer_range
    }
}
