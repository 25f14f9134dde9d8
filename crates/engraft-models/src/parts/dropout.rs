//! Dropout of the model's own.

use burn::tensor::Tensor;
use engraft_core::{Ctx, dropout};

/// Dropout at a place of the model, in training only: its masks depend on the place, the run's seed
/// and the step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dropout {
    path: String,
    probability: f64,
}

impl Dropout {
    pub fn new(path: impl Into<String>, probability: f64) -> Self {
        Self {
            path: path.into(),
            probability,
        }
    }

    /// Whether anything is dropped now.
    pub fn acts(&self, ctx: &Ctx) -> bool {
        ctx.is_training() && self.probability > 0.0
    }

    /// x with each entry dropped or scaled.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        if !self.acts(ctx) {
            return x;
        }
        let dims = x.dims();
        let flat = x.reshape([-1, dims[D - 1] as i64]);
        dropout(flat, self.probability, &ctx.at(&self.path)).reshape(dims)
    }
}
