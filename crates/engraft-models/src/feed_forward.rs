//! The feed-forward sublayer of a block.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{Ctx, Linear, ModelShapes, Part, Slots};

use crate::activation::Activation;
use crate::init::Start;

/// fc2(gelu(fc1(x))).
#[derive(Module, Debug)]
pub struct FeedForward {
    /// [width, hidden].
    pub fc1: Linear,
    /// [hidden, width].
    pub fc2: Linear,
}

impl FeedForward {
    pub(crate) fn new(width: usize, hidden: usize, start: &Start) -> Self {
        Self {
            fc1: start.glorot("fc1", width, hidden),
            fc2: start.glorot("fc2", hidden, width),
        }
    }

    /// Acts on the last axis of [..., width].
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        self.fc2
            .forward(Activation::Gelu.forward(self.fc1.forward(x, ctx)), ctx)
    }

    pub(crate) fn slots(&mut self, slots: &mut Slots<'_>) {
        slots
            .linear("fc1", &mut self.fc1)
            .linear("fc2", &mut self.fc2);
    }

    pub(crate) fn push_shapes(shapes: &mut ModelShapes, path: &str, width: usize, hidden: usize) {
        shapes.push_linear(&format!("{path}.fc1"), width, hidden, true, Part::Body);
        shapes.push_linear(&format!("{path}.fc2"), hidden, width, true, Part::Body);
    }
}
