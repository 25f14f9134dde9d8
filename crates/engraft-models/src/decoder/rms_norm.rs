//! Root-mean-square normalisation with a site behind it.

use burn::module::Param;
use burn::tensor::Tensor;
use engraft_core::{Ctx, Site};
use engraft_tensor::{Init, ops};

use crate::parts::{Builder, model_part};

/// y = x / sqrt(mean(x^2) + epsilon) * g over the last axis, with the gain g = weight, or
/// g = 1 + weight where gains are stored as their distance from 1 (Gemma).
///
/// Zhang and Sennrich, arXiv 1910.07467. The site `output` sees y.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// The stored gain, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// The normalised hidden state.
    pub output: Site,
    config: RmsNormConfig,
}

/// What decides how an [`RmsNorm`] computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RmsNormConfig {
    pub epsilon: f64,
    /// Whether gains are stored as their distance from 1.
    pub from_one: bool,
}

model_part!(RmsNorm, this { weight => "weight", output => "output" } plain { config });

impl RmsNorm {
    pub(crate) fn new(
        name: &str,
        width: usize,
        config: RmsNormConfig,
        builder: &mut Builder<'_>,
    ) -> Self {
        let init = Init::Constant(if config.from_one { 0.0 } else { 1.0 });
        Self {
            weight: builder.within(name).param("weight", [width], init),
            output: Site::default(),
            config,
        }
    }

    /// Normalises the last axis of [..., width].
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        let weight = self.weight.val();
        let gain = match self.config.from_one {
            true => weight + 1.0,
            false => weight,
        };
        let y = ops::rms_norm(x, gain, self.config.epsilon);
        self.output.hidden(y, ctx)
    }
}
