//! AdamW.

use burn::tensor::Tensor;
use engraft_tensor::ops;
use serde::{Deserialize, Serialize};

use crate::optimizer::{State, Step};

/// AdamW with decoupled weight decay; the defaults are PyTorch's `torch.optim.AdamW`.
///
/// With gradient g, rate lr and step t = 1, 2, ... of the parameter p:
///
/// ```text
/// p <- p (1 - lr weight_decay)
/// m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
/// p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
/// ```
///
/// Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

impl AdamW {
    /// Values and states after a step of every parameter: [`ops::adamw`].
    pub(crate) fn update(&self, steps: Vec<Step>) -> Vec<(Tensor<1>, State)> {
        let config = ops::AdamW {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.epsilon,
            weight_decay: self.weight_decay,
        };
        let counts: Vec<u64> = steps.iter().map(|step| step.state.step).collect();
        let parameters = steps.into_iter().map(|step| ops::AdamWParameter {
            values: step.values,
            gradient: step.gradient,
            moments: step.state.moments.try_into().ok(),
            lr: step.lr,
            step: step.state.step,
        });
        let stepped = ops::adamw(&config, parameters.collect()).into_iter();
        stepped
            .zip(counts)
            .map(|((values, moments), step)| {
                let moments = moments.into();
                (values, State { step, moments })
            })
            .collect()
    }
}
