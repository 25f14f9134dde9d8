//! Singular triples of a weight.

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use engraft_core::{FrozenBase, InitContext, Result};
use engraft_linalg::{Matrix, Operator, Svd, leading_svd, randomized_svd, svd};
use engraft_tensor::host::HostMatrix;
use engraft_tensor::{bridge, cayley};

/// Extra columns of the random test matrix beyond the rank (Halko et al. 2011, section 4.2).
const OVERSAMPLE: usize = 10;

/// W ~ U_r S_r V_r^T. `niter` 0 is exact to the rounding of W's own precision; otherwise it is
/// randomised with that many power iterations and `rank + 10` test columns. Random vectors are
/// drawn from the layer's own stream.
///
/// # Errors
/// NaN or infinite weights, no convergence.
pub(crate) fn leading(
    base: &FrozenBase,
    rank: usize,
    niter: usize,
    ctx: &InitContext,
) -> Result<Svd> {
    leading_of(&HostMatrix::new(&base.weight()), rank, niter, ctx)
}

/// [`leading`] of any matrix.
///
/// # Errors
/// NaN or infinite entries, no convergence.
pub(crate) fn leading_of(
    matrix: &impl Operator,
    rank: usize,
    niter: usize,
    ctx: &InitContext,
) -> Result<Svd> {
    let rng = &mut ctx.key.child("svd").rng();
    let found = match niter {
        0 => leading_svd(matrix, rank, rng),
        _ => randomized_svd(matrix, rank, OVERSAMPLE, niter, rng),
    };
    found.map_err(|error| ctx.numeric(error))
}

/// The `rank` smallest singular triples of W, in f64.
///
/// # Errors
/// NaN or infinite weights, no convergence.
pub(crate) fn trailing(base: &FrozenBase, rank: usize, ctx: &InitContext) -> Result<Svd> {
    let all = svd(&bridge::to_matrix(&base.weight())).map_err(|error| ctx.numeric(error))?;
    last(&all, rank, ctx)
}

/// The last `rank` of singular triples.
///
/// # Errors
/// More than there are.
pub(crate) fn last(all: &Svd, rank: usize, ctx: &InitContext) -> Result<Svd> {
    let numeric = |error| ctx.numeric(error);
    let range = all.s.len().saturating_sub(rank)..all.s.len();
    Ok(Svd {
        u: all.u.columns(range.clone()).map_err(numeric)?,
        s: all.s[range.clone()].to_vec(),
        vt: all
            .vt
            .transpose()
            .columns(range)
            .map_err(numeric)?
            .transpose(),
    })
}

/// A host matrix as a tensor where the layer's parameters go.
pub(crate) fn tensor(matrix: &Matrix, ctx: &InitContext) -> Tensor<2> {
    bridge::from_matrix(matrix, &ctx.device, ctx.dtype)
}

/// A parameter that is stored in the adapter file but not trained.
pub(crate) fn frozen(value: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(value).set_require_grad(false)
}

/// I, [n, n].
pub(crate) fn identity(n: usize, device: &Device, dtype: DType) -> Tensor<2> {
    cayley::eye(n, device, dtype).squeeze_dim::<2>(0)
}
