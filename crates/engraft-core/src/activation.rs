//! The nonlinearity between the two projections.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// f in U f(D h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(0, x).
    #[default]
    Relu,
    /// x Phi(x), Phi the normal distribution function.
    Gelu,
    /// x sigmoid(x), also called swish.
    Silu,
    /// tanh(x).
    Tanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// x: a low-rank map.
    Identity,
}

impl Activation {
    /// f(x), entry by entry.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => activation::relu(x),
            Self::Gelu => engraft_tensor::ops::gelu(x),
            Self::Silu => activation::silu(x),
            Self::Tanh => activation::tanh(x),
            Self::Sigmoid => activation::sigmoid(x),
            Self::Identity => x,
        }
    }
}
