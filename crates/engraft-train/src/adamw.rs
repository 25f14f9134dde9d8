//! AdamW.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::optimizer::State;

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
    /// The parameter after one step with gradient g.
    pub(crate) fn update(
        &self,
        state: &mut State,
        p: Tensor<1>,
        g: Tensor<1>,
        lr: f64,
    ) -> Tensor<1> {
        let Self {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = *self;
        let t = state.step as f64;
        let first = g.clone() * (1.0 - beta1);
        let second = g.clone() * g * (1.0 - beta2);
        let (m, v) = match <[Tensor<1>; 2]>::try_from(std::mem::take(&mut state.moments)) {
            Ok([m, v]) => (m * beta1 + first, v * beta2 + second),
            Err(_) => (first, second),
        };
        state.moments = vec![m.clone(), v.clone()];
        let root = v.sqrt() * (1.0 - beta2.powf(t)).sqrt().recip() + epsilon;
        p * (1.0 - lr * weight_decay) - m / root * (lr / (1.0 - beta1.powf(t)))
    }
}
