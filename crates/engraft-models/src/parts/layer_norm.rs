//! Layer normalisation under the names of `transformers`.

use burn::module::Param;
use burn::tensor::Tensor;
use engraft_core::{Ctx, Site};
use engraft_tensor::{Init, ops};

use super::{Builder, model_part};

/// y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias over the last axis, var biased.
///
/// Ba, Kiros and Hinton, arXiv 1607.06450. The site `output` sees y.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Gain, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Offset, `[width]`.
    pub bias: Param<Tensor<1>>,
    /// The normalised hidden state.
    pub output: Site,
    epsilon: f64,
}

model_part!(Norm, this { weight => "weight", bias => "bias", output => "output" } plain { epsilon });

impl Norm {
    pub(crate) fn new(name: &str, width: usize, epsilon: f64, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within(name);
        Self {
            weight: builder.param("weight", [width], Init::ONES),
            bias: builder.param("bias", [width], Init::ZEROS),
            output: Site::default(),
            epsilon,
        }
    }

    /// Normalises the last axis of [..., width].
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        self.output.hidden(
            ops::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon),
            ctx,
        )
    }
}
