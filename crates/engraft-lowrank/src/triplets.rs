//! Sums of triplets: A diag(lambda) B, in the form of a singular value decomposition.

use burn::tensor::Tensor;
use engraft_core::{BankSpec, Ctx, FrozenBase, LayerShape};
use engraft_tensor::Init;

/// Added to a rank before dividing by it, as in AdaLoRA's code.
pub(crate) const RANK_EPSILON: f64 = 1e-5;
/// Standard deviation of the first A and B.
pub(crate) const SPREAD: f64 = 0.02;
/// Below this a squared norm has no useful derivative of its root.
const SMALLEST: f64 = 1e-30;

/// The bank's entry with the weight of one matrix in a mean over the A and B of all layers.
pub(crate) const SHARE: &str = "share";

/// The entry [`SHARE`], [1, 1].
pub(crate) fn share(layers: &[LayerShape]) -> BankSpec {
    let share = 1.0 / (2 * layers.len().max(1)) as f64;
    BankSpec::frozen(SHARE, [1, 1], Init::Constant(share))
}

/// A diag(lambda), [d_in, r].
pub(crate) fn weighted(a: Tensor<2>, lambda: Tensor<1>) -> Tensor<2> {
    match lambda.dims() {
        [0] => a,
        _ => a * lambda.unsqueeze(),
    }
}

/// x W + b + d(x) A' B for tokens x and dropout d, where A' = A diag(lambda) was already scaled.
/// Nothing at rank 0.
pub(crate) fn forward(
    x: Tensor<2>,
    base: &FrozenBase,
    (a, b): (Tensor<2>, Tensor<2>),
    probability: f64,
    ctx: &Ctx,
) -> Tensor<2> {
    if b.dims()[0] == 0 {
        return base.forward(x);
    }
    base.low_rank(x, (a, b), 1.0, probability, ctx)
}

/// W + A' B.
pub(crate) fn added_to(base: &FrozenBase, a: Tensor<2>, b: Tensor<2>) -> FrozenBase {
    if b.dims()[0] == 0 {
        return base.clone();
    }
    base.with_low_rank((a, b), 1.0)
}

/// |A^T A - I|_F + |B B^T - I|_F over the triplets that `mask` `[r]` marks with 1, `[1]`.
pub(crate) fn departure(a: Tensor<2>, b: Tensor<2>, mask: Option<Tensor<1>>) -> Tensor<1> {
    let rank = b.dims()[0];
    let identity = Tensor::<2>::eye(rank, &b.device()).cast(b.dtype());
    let marked = mask.map(|mask| {
        let row: Tensor<2> = mask.unsqueeze();
        row.clone().transpose() * row
    });
    let norm = |gram: Tensor<2>| {
        let off = gram - identity.clone();
        let off = match &marked {
            Some(marked) => off * marked.clone(),
            None => off,
        };
        off.powi_scalar(2).sum().clamp_min(SMALLEST).sqrt()
    };
    norm(a.clone().transpose().matmul(a)) + norm(b.clone().matmul(b.transpose()))
}
