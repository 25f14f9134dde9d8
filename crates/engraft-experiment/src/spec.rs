//! A run: everything that decides its result, and nothing else.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json;

/// The method of the row without adaptation: no training, the pre-trained model is evaluated.
pub const BASE: &str = "base";
/// The method of full fine-tuning.
pub const FULL: &str = "full";

/// Which model is adapted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The name of a preset, for example `digits-vit`.
    pub preset: String,
}

/// What the model is adapted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The data set.
    pub data: String,
    /// The shifted domain.
    pub domain: String,
    /// Labelled training images per class.
    pub labels_per_class: usize,
}

/// How the model is adapted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MethodSpec {
    /// The method's id in the registry, or [`BASE`].
    pub id: String,
    /// The method's configuration table.
    pub config: Value,
    /// Which layers are adapted; `null` leaves it to the method's default.
    pub targets: Value,
}

/// The optimizer's update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay, as PyTorch defines it.
    Adamw,
    /// Stochastic gradient descent, as PyTorch defines it.
    Sgd,
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// Half a cosine to zero.
    Cosine,
    /// A straight line to zero.
    Linear,
}

/// The training budget and rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimizerSpec {
    /// The update rule.
    pub name: OptimizerName,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Images per step.
    pub batch_size: usize,
    /// Updates; 0 evaluates the model as it is.
    pub steps: usize,
    /// Steps in which the learning rate rises linearly from zero.
    pub warmup: usize,
    /// The learning rate after the warm-up.
    pub schedule: Schedule,
    /// The global norm to which gradients are clipped, if they are.
    pub clip_norm: Option<f64>,
}

/// A fully resolved run. Experiments share runs: no field names an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The model.
    pub model: ModelSpec,
    /// The task.
    pub task: TaskSpec,
    /// The method.
    pub method: MethodSpec,
    /// The training.
    pub optimizer: OptimizerSpec,
    /// The seed of labels, initialisation, order and dropout.
    pub seed: u64,
    /// The device, for example `flex`.
    pub device: String,
}

impl RunSpec {
    /// The SHA-256 of the canonical JSON of the specification.
    #[must_use]
    pub fn key(&self) -> String {
        json::digest(self)
    }

    /// A name for messages: "lora on quarter-turn, learning rate 0.01, seed 3".
    #[must_use]
    pub fn label(&self) -> String {
        let Self {
            method, task, seed, ..
        } = self;
        let rate = self.optimizer.learning_rate;
        if method.id == BASE {
            format!("{} on {}, seed {seed}", method.id, task.domain)
        } else {
            format!(
                "{} on {}, learning rate {rate}, seed {seed}",
                method.id, task.domain
            )
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn example() -> RunSpec {
        RunSpec {
            model: ModelSpec {
                preset: "digits-vit".into(),
            },
            task: TaskSpec {
                data: "digits".into(),
                domain: "quarter-turn".into(),
                labels_per_class: 10,
            },
            method: MethodSpec {
                id: "lora".into(),
                config: json!({"rank": 4, "alpha": 8}),
                targets: Value::Null,
            },
            optimizer: OptimizerSpec {
                name: OptimizerName::Adamw,
                learning_rate: 0.01,
                weight_decay: 0.0,
                batch_size: 50,
                steps: 40,
                warmup: 4,
                schedule: Schedule::Cosine,
                clip_norm: Some(1.0),
            },
            seed: 3,
            device: "flex".into(),
        }
    }

    #[test]
    fn the_key_depends_on_every_value_and_not_on_the_order_of_keys() {
        let spec = example();
        let mut swapped = spec.clone();
        swapped.method.config = json!({"alpha": 8, "rank": 4});
        assert_eq!(spec.key(), swapped.key());
        assert_eq!(spec.key().len(), 64);
        let mut other = spec.clone();
        other.seed = 4;
        assert_ne!(spec.key(), other.key());
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            serde_json::from_str::<RunSpec>(&text).unwrap().key(),
            spec.key()
        );
        assert_eq!(
            spec.label(),
            "lora on quarter-turn, learning rate 0.01, seed 3"
        );
    }
}
