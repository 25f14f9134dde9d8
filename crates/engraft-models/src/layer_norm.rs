//! Layer normalisation with a site behind it.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{Ctx, ModelShapes, Part, Site, SiteKind, Slots};
use engraft_tensor::{Init, ops};

use crate::init::Start;

/// y = (x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta over the last axis, var biased.
///
/// Ba, Kiros and Hinton, arXiv 1607.06450. The site `output` sees y.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Gain, `[width]`.
    pub gamma: Param<Tensor<1>>,
    /// Offset, `[width]`.
    pub beta: Param<Tensor<1>>,
    /// The normalised hidden state.
    pub output: Site,
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, epsilon: f64, start: &Start) -> Self {
        let constant = |init: Init| {
            Param::from_tensor(init.tensor([width], &start.key, start.device, start.dtype))
        };
        Self {
            gamma: constant(Init::ONES),
            beta: constant(Init::ZEROS),
            output: Site::default(),
            epsilon,
        }
    }

    /// Normalises the last axis of [..., width].
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        self.output.hidden(
            ops::layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon),
            ctx,
        )
    }

    pub(crate) fn slots(&mut self, slots: &mut Slots<'_>) {
        slots.site("output", &mut self.output);
    }

    pub(crate) fn push_shapes(shapes: &mut ModelShapes, path: &str, width: usize) {
        shapes.push_param(format!("{path}.gamma"), width, Part::Norm, false);
        shapes.push_param(format!("{path}.beta"), width, Part::Norm, true);
        shapes.push_site(format!("{path}.output"), SiteKind::Hidden, width);
        let scaled = ["gamma", "beta"].map(|name| format!("{path}.{name}"));
        let shifted = scaled[1].clone();
        shapes.push_fold(format!("{path}.output"), scaled.to_vec(), Some(shifted));
    }
}
