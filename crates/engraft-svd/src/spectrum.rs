//! The leading singular triples of a weight.

use burn::module::Param;
use burn::tensor::Tensor;
use engraft_core::{FrozenBase, InitContext, Result};
use engraft_linalg::{Matrix, Svd, randomized_svd, svd};
use engraft_tensor::bridge;

/// Extra columns of the random test matrix beyond the rank (Halko et al. 2011, section 4.2).
const OVERSAMPLE: usize = 10;

/// W ~ U_r S_r V_r^T in f64. `niter` 0 is the exact decomposition; otherwise it is randomised with
/// that many power iterations and `rank + 10` test columns drawn from the layer's own stream.
///
/// # Errors
/// NaN or infinite weights, no convergence.
pub(crate) fn leading(
    base: &FrozenBase,
    rank: usize,
    niter: usize,
    ctx: &InitContext,
) -> Result<Svd> {
    let weight = bridge::to_matrix(&base.weight);
    let found = match niter {
        0 => svd(&weight).and_then(|full| full.truncated(rank)),
        _ => randomized_svd(
            &weight,
            rank,
            OVERSAMPLE,
            niter,
            &mut ctx.key.child("svd").rng(),
        ),
    };
    found.map_err(|error| ctx.numeric(error))
}

/// A host matrix as a tensor where the layer's parameters go.
pub(crate) fn tensor(matrix: &Matrix, ctx: &InitContext) -> Tensor<2> {
    bridge::from_matrix(matrix, &ctx.device, ctx.dtype)
}

/// A parameter that is stored in the adapter file but not trained.
pub(crate) fn frozen(value: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(value).set_require_grad(false)
}
