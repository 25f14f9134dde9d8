//! Polar decomposition and the orthogonal Procrustes problem.

use crate::error::Result;
use crate::matrix::Matrix;
use crate::svd::{Svd, svd};

/// Polar decomposition A = Q H.
#[derive(Debug, Clone, PartialEq)]
pub struct Polar {
    /// m x n with orthonormal columns (m >= n) or rows (m <= n).
    pub q: Matrix,
    /// n x n, symmetric positive semi-definite, the root of A^T A.
    pub h: Matrix,
}

/// Polar decomposition of an m x n matrix from its singular value decomposition: Q = U V^T and
/// H = V diag(s) V^T.
///
/// Q is the matrix with orthonormal columns (rows) nearest to A in the Frobenius norm
/// (Higham 2008, theorem 8.4); it is unique if A has full rank.
///
/// Errors: an empty matrix, NaN or infinite entries.
pub fn polar(a: &Matrix) -> Result<Polar> {
    let Svd { u, s, vt } = svd(a)?;
    Ok(Polar {
        q: u.matmul(&vt)?,
        h: vt.transpose_matmul(&vt.scale_rows(&s)?)?,
    })
}

/// Orthogonal Procrustes problem: the p x q matrix Q with orthonormal columns (p >= q) or rows
/// that minimises ||A Q - B||_F over square Q, for A (m x p) and B (m x q): the polar factor of
/// A^T B (Schönemann 1966). For p != q it maximises the trace of Q^T A^T B.
///
/// Errors: different numbers of rows, empty matrices, NaN or infinite entries.
pub fn procrustes(a: &Matrix, b: &Matrix) -> Result<Matrix> {
    a.check_finite("procrustes")?;
    b.check_finite("procrustes")?;
    Ok(polar(&a.transpose_matmul(b)?)?.q)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{matrices, orthogonal, orthonormality, seeded, tolerance, unit_tolerance};

    proptest! {
        #[test]
        fn defining_identity(a in matrices()) {
            let Polar { q, h } = polar(&a).unwrap();
            let narrow = if a.rows() >= a.cols() { q.clone() } else { q.transpose() };
            prop_assert!(orthonormality(&narrow) <= 2.0 * unit_tolerance(&a));
            prop_assert!(q.matmul(&h).unwrap().max_abs_diff(&a).unwrap() <= 2.0 * tolerance(&a));
            prop_assert!(h.max_abs_diff(&h.transpose()).unwrap() <= tolerance(&a));
            let x = seeded(a.cols(), 1, 1);
            let form = x.transpose_matmul(&h.matmul(&x).unwrap()).unwrap().get(0, 0);
            prop_assert!(form >= -tolerance(&a) * x.frobenius_norm().powi(2));
        }

        #[test]
        fn procrustes_recovers_a_rotation(n in 1usize..12, extra in 0usize..5, seed: u64) {
            let a = seeded(n + extra + 3, n, seed);
            let q = orthogonal(n, seed ^ 1);
            let found = procrustes(&a, &a.matmul(&q).unwrap()).unwrap();
            // The factor is as well determined as the smallest singular value of A^T A allows.
            let s = svd(&a).unwrap().s;
            let condition = (s[0] / s[n - 1]).powi(2);
            prop_assert!(found.max_abs_diff(&q).unwrap() <= unit_tolerance(&a) * condition);
        }

        #[test]
        fn procrustes_is_not_beaten(n in 1usize..8, seed: u64) {
            let (a, b) = (seeded(10, n, seed), seeded(10, n, seed ^ 1));
            let error = |q: &Matrix| a.matmul(q).unwrap().sub(&b).unwrap().frobenius_norm();
            let best = error(&procrustes(&a, &b).unwrap());
            prop_assert!(best <= error(&orthogonal(n, seed ^ 2)) + tolerance(&a));
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        assert!(polar(&Matrix::from_fn(2, 2, |_, _| f64::NAN)).is_err());
        assert!(procrustes(&Matrix::zeros(3, 2), &Matrix::zeros(2, 2)).is_err());
        // Infinity times zero must not slip through as a product.
        assert!(
            procrustes(
                &Matrix::from_fn(1, 1, |_, _| f64::INFINITY),
                &seeded(1, 1, 0)
            )
            .is_err()
        );
    }
}
