//! Elementwise activations.

use burn::tensor::Tensor;
use engraft_tensor::ops;
use serde::{Deserialize, Serialize};

/// An elementwise activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x Phi(x) = x (1 + erf(x / sqrt(2))) / 2, exact.
    #[default]
    Gelu,
}

impl Activation {
    /// The activation of every entry.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => ops::relu(x),
            Self::Gelu => ops::gelu(x),
        }
    }
}
