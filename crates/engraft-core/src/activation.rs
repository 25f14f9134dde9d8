//! The nonlinearity between the two projections.

use burn::tensor::Tensor;
use engraft_tensor::ops;
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
            Self::Relu => ops::relu(x),
            Self::Gelu => ops::gelu(x),
            Self::Silu => ops::silu(x),
            Self::Tanh => ops::tanh(x),
            Self::Sigmoid => ops::sigmoid(x),
            Self::Identity => x,
        }
    }
}
