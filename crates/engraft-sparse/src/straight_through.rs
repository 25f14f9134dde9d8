//! Indicators whose gradient is passed straight through.

use burn::tensor::{Bool, Tensor};

/// I = 1 where `test` holds and 0 elsewhere, with dI/ds = 1 for the scores s. With `held` scores s0
/// it is I(s0) + s - s0: the function of s whose derivative that gradient is, of equal value at s0.
pub(crate) fn indicator<const D: usize>(
    scores: Tensor<D>,
    held: Option<Tensor<D>>,
    test: impl Fn(Tensor<D>) -> Tensor<D, Bool>,
) -> Tensor<D> {
    let at = held.unwrap_or_else(|| scores.clone().detach());
    let hard = at.zeros_like().mask_fill(test(at.clone()), 1.0);
    // The difference is exactly zero unless scores are held, so that the indicator stays 0 or 1.
    hard + (scores - at)
}
