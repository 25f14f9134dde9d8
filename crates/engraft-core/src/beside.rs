//! Updates that are added beside a frozen layer.

use burn::tensor::Tensor;
use engraft_tensor::ops;

use crate::base::FrozenBase;
use crate::ctx::Ctx;
use crate::dropout::dropout;
use crate::weight::Weight;

impl FrozenBase {
    /// y = x W + b + f(d(x)), with d dropout of `probability` in training.
    ///
    /// `update(x, Some((W, b)))` is the whole sum, `update(x, None)` f(x) alone: they are one
    /// operation that adds to the frozen product in place, but for dropout, where the two see
    /// different inputs, and for a quantised weight.
    pub fn beside(
        &self,
        x: Tensor<2>,
        probability: f64,
        ctx: &Ctx,
        update: impl FnOnce(Tensor<2>, Option<(Tensor<2>, Option<Tensor<1>>)>) -> Tensor<2>,
    ) -> Tensor<2> {
        if ctx.is_training() && probability > 0.0 {
            let y = self.forward(x.clone());
            return y + update(dropout(x, probability, ctx), None);
        }
        match self.stored() {
            Weight::Dense(weight) => update(x, Some((weight.clone(), self.bias.clone()))),
            Weight::Quantised(_) => self.forward(x.clone()) + update(x, None),
        }
    }

    /// y = x W + b + s (d(x) A) B for factors A: [d_in, r] and B: [r, d_out], with d dropout of
    /// `probability` in training.
    pub fn low_rank(
        &self,
        x: Tensor<2>,
        (a, b): (Tensor<2>, Tensor<2>),
        scaling: f64,
        probability: f64,
        ctx: &Ctx,
    ) -> Tensor<2> {
        self.beside(x, probability, ctx, |x, base| match base {
            Some((weight, bias)) => ops::low_rank(x, weight, bias, a, b, scaling),
            None => ops::matmul(ops::matmul(x, a) * scaling, b),
        })
    }

    /// The layer with the weight W + s A B.
    pub fn with_low_rank(&self, (a, b): (Tensor<2>, Tensor<2>), scaling: f64) -> Self {
        self.with_weight(ops::low_rank_update(self.weight(), a, b, scaling))
    }
}
