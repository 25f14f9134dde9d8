//! What is trained of a layer's outputs beside the rotation of its inputs.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{FrozenBase, InitContext};
use engraft_tensor::Init;
use engraft_tensor::ops::{linear, matmul, scaled_columns};
use serde::{Deserialize, Serialize};

/// Which of a scale and an offset of the outputs are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outputs {
    /// Neither.
    Fixed,
    /// A scale s: the magnitudes that a rotation cannot change.
    Scale,
    /// A scale s and an offset beta, which does the same as training the layer's bias.
    ScaleAndBias,
}

impl Outputs {
    /// Trained values on `d_out` outputs.
    pub fn count(self, d_out: usize) -> usize {
        match self {
            Self::Fixed => 0,
            Self::Scale => d_out,
            Self::ScaleAndBias => 2 * d_out,
        }
    }

    pub(crate) fn init(self, d_out: usize, ctx: &InitContext) -> Retuned {
        let param = |init, role| Param::from_tensor(ctx.tensor(init, [d_out], role));
        Retuned {
            s: (self != Self::Fixed).then(|| param(Init::ONES, "s")),
            beta: (self == Self::ScaleAndBias).then(|| param(Init::ZEROS, "beta")),
        }
    }
}

/// z = y . s + b + beta for outputs y = x W.
#[derive(Module, Debug)]
pub struct Retuned {
    /// s, `[d_out]`, one at first.
    pub s: Option<Param<Tensor<1>>>,
    /// beta, `[d_out]`, zero at first.
    pub beta: Option<Param<Tensor<1>>>,
}

impl Retuned {
    /// The layer with the weight W diag(s) and the bias b + beta.
    pub(crate) fn layer(&self, base: &FrozenBase, weight: Tensor<2>) -> FrozenBase {
        let weight = match &self.s {
            Some(s) => scaled_columns(weight, s.val(), None),
            None => weight,
        };
        FrozenBase::new(weight, self.bias(base))
    }

    /// x W diag(s) + b + beta for inputs x [tokens, d_in].
    pub(crate) fn apply(&self, base: &FrozenBase, x: Tensor<2>) -> Tensor<2> {
        let weight = base.weight();
        match &self.s {
            Some(_) => self.retune(base, matmul(x, weight)),
            None => linear(x, weight, self.bias(base)),
        }
    }

    /// y diag(s) + b + beta for y [tokens, d_out].
    pub(crate) fn retune(&self, base: &FrozenBase, y: Tensor<2>) -> Tensor<2> {
        match (&self.s, self.bias(base)) {
            (Some(s), bias) => scaled_columns(y, s.val(), bias),
            (None, Some(bias)) => y + bias.unsqueeze(),
            (None, None) => y,
        }
    }

    /// b + beta.
    fn bias(&self, base: &FrozenBase) -> Option<Tensor<1>> {
        let beta = self.beta.as_ref().map(|beta| beta.val());
        match (base.bias.clone(), beta) {
            (Some(bias), Some(beta)) => Some(bias + beta),
            (bias, beta) => bias.or(beta),
        }
    }
}
