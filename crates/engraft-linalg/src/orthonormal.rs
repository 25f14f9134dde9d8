//! QR decomposition of thin blocks through their Gram matrix.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, Par};

use crate::error::Result;
use crate::matrix::Matrix;
use crate::qr::{Qr, qr};

/// Ratio of the smallest to the largest diagonal entry of R below which the Gram matrix, which
/// squares it, no longer determines Q.
const WELL_CONDITIONED: f64 = 1e-6;

/// Thin QR decomposition of a tall n x k block, as [`qr()`] but made of products: Cholesky of the
/// Gram matrix, twice (CholeskyQR2, Yamamoto, Nakatsukasa, Yanagisawa and Fukaya 2015), 8 n k^2
/// flops. Q is orthonormal to rounding up to a condition of about 1e6; beyond it, and for wide
/// blocks, by reflections.
pub(crate) fn thin_qr(block: &Matrix) -> Result<Qr> {
    let (Some(first), true) = (cholesky_qr(block), block.rows() >= block.cols()) else {
        return qr(block);
    };
    match cholesky_qr(&first.q) {
        Some(second) => Ok(Qr {
            r: second.r.matmul(&first.r)?,
            q: second.q,
        }),
        None => qr(block),
    }
}

/// One pass: R from the Gram matrix, Q = A R^-1. None where the block is too ill-conditioned, or
/// its squares leave the range of f64.
fn cholesky_qr(block: &Matrix) -> Option<Qr> {
    let k = block.cols();
    let gram = block.as_view().transpose_times(block);
    let smallest = (0..k).map(|i| gram.get(i, i)).fold(f64::INFINITY, f64::min);
    if !(smallest > f64::MIN_POSITIVE / f64::EPSILON && gram.max_abs() < f64::MAX / 2.0) {
        return None;
    }
    let mut lower = Mat::from_fn(k, k, |i, j| gram.get(i, j));
    let scratch = cholesky_in_place_scratch::<f64>(k, Par::Seq, Default::default());
    cholesky_in_place(
        lower.as_mut(),
        Default::default(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .ok()?;
    let diagonal = |i: usize| lower[(i, i)];
    let largest = (0..k).map(diagonal).fold(0.0, f64::max);
    if !(0..k).all(|i| diagonal(i) >= WELL_CONDITIONED * largest) {
        return None;
    }
    let mut q = block.clone();
    // R^T Q^T = A^T.
    solve_lower_triangular_in_place(lower.as_ref(), q.view_mut().transpose_mut(), Par::Seq);
    let r = Matrix::from_fn(k, k, |i, j| if i <= j { lower[(j, i)] } else { 0.0 });
    Some(Qr { q, r })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{matrices, orthonormality, seeded, tolerance, unit_tolerance};

    proptest! {
        #[test]
        fn agrees_with_reflections(a in matrices()) {
            let (found, expected) = (thin_qr(&a).unwrap(), qr(&a).unwrap());
            prop_assert!(orthonormality(&found.q) <= 2.0 * unit_tolerance(&a));
            let product = found.q.matmul(&found.r).unwrap();
            prop_assert!(product.max_abs_diff(&a).unwrap() <= 2.0 * tolerance(&a));
            prop_assert_eq!(found.r.shape(), expected.r.shape());
            for i in 0..found.r.rows() {
                prop_assert!(found.r.get(i, i) >= 0.0);
                prop_assert!(found.r.row(i)[..i].iter().all(|&x| x == 0.0));
            }
        }

        #[test]
        fn condition_does_not_matter(exponent in 0..20i32, seed: u64) {
            let mut a = seeded(40, 6, seed);
            for i in 0..40 {
                let row = a.row_mut(i);
                row[5] = row[4] + row[5] * 10f64.powi(-exponent);
            }
            prop_assert!(orthonormality(&thin_qr(&a).unwrap().q) <= unit_tolerance(&a));
        }
    }
}
