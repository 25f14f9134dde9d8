//! Singular values of products and sums that are only known by their thin factors.

use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;
use crate::orthonormal::thin_qr;
use crate::qr::Qr;
use crate::svd::{Svd, svd};

/// Singular value decomposition of L R, for L (m x k) and R (k x n), without the m x n product:
/// with L = Q_l R_l and R^T = Q_r R_r it is that of the k x k matrix R_l R_r^T between the two
/// bases, 4 (m + n) k^2 flops and O(k^3). It has min(k, m) or min(k, n) triples, whichever is
/// fewer. Signs as in [`svd()`].
///
/// Errors: shapes that do not fit, empty matrices, NaN or infinite entries.
pub fn product_svd(left: &Matrix, right: &Matrix) -> Result<Svd> {
    let fits = left.cols() == right.rows();
    left.check_pair("svd of a product", right, fits, "columns = rows")?;
    left.check_finite("svd of a product")?;
    right.check_finite("svd of a product")?;
    let Qr { q: ql, r: rl } = thin_qr(left)?;
    let Qr { q: qr, r: rr } = thin_qr(&right.transpose())?;
    let Svd { u, s, vt } = svd(&rl.matmul(&rr.transpose())?)?;
    Ok(Svd {
        u: ql.matmul(&u)?,
        s,
        vt: vt.matmul(&qr.transpose())?,
    }
    .with_fixed_signs())
}

/// Singular value decomposition of sum_i w_i A_i B_i, for factors A_i (m x r_i) and B_i (r_i x n) of
/// any ranks: the [`product_svd`] of the factors side by side, O((m + n) (sum_i r_i)^2). Truncated
/// to a rank r it is the best approximation of the sum by factors of that rank, with the
/// [error](Svd::truncation_error) of the values left out.
///
/// Errors: no terms, shapes that do not fit, NaN or infinite entries.
pub fn sum_svd(terms: &[(f64, &Matrix, &Matrix)]) -> Result<Svd> {
    let Some((_, first_a, first_b)) = terms.first() else {
        return Err(LinalgError::Empty {
            operation: "svd of a sum",
            rows: 0,
            cols: 0,
        });
    };
    let (m, n) = (first_a.rows(), first_b.cols());
    let (mut lefts, mut right) = (Vec::new(), Vec::new());
    for (weight, a, b) in terms {
        a.check_pair("svd of a sum", b, a.cols() == b.rows(), "columns = rows")?;
        a.check_pair("svd of a sum", first_a, a.rows() == m, "as many rows")?;
        b.check_pair("svd of a sum", first_b, b.cols() == n, "as many columns")?;
        lefts.push(a.scale(*weight).transpose());
        right.extend_from_slice(b.as_slice());
    }
    let left: Vec<f64> = lefts.into_iter().flat_map(Matrix::into_vec).collect();
    let rank = right.len() / n.max(1);
    let left = Matrix::from_vec(rank, m, left)?.transpose();
    product_svd(&left, &Matrix::from_vec(rank, n, right)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{orthonormality, seeded, tolerance, unit_tolerance};

    fn terms() -> impl Strategy<Value = Vec<(f64, Matrix, Matrix)>> {
        let ranks = proptest::collection::vec((1usize..5, -2.0..2.0), 1..4);
        (1usize..20, 1usize..20, ranks, any::<u64>()).prop_map(|(m, n, ranks, seed)| {
            let term = |(i, (rank, weight)): (usize, (usize, f64))| {
                let seed = seed ^ (2 * i as u64);
                (weight, seeded(m, rank, seed), seeded(rank, n, seed ^ 1))
            };
            ranks.into_iter().enumerate().map(term).collect()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_dense_sum(terms in terms(), part in 0.0..1.0) {
            let borrowed: Vec<_> = terms.iter().map(|(w, a, b)| (*w, a, b)).collect();
            let found = sum_svd(&borrowed).unwrap();
            let products = terms.iter().map(|(w, a, b)| a.matmul(b).unwrap().scale(*w));
            let dense = products.reduce(|x, y| x.add(&y).unwrap()).unwrap();
            // Terms may cancel: errors are relative to their norms.
            let norm = |(w, a, b): &(f64, Matrix, Matrix)| {
                w.abs() * a.frobenius_norm() * b.frobenius_norm()
            };
            let bound = unit_tolerance(&dense) * terms.iter().map(norm).sum::<f64>();
            let expected = svd(&dense).unwrap();
            for (i, x) in expected.s.iter().enumerate() {
                prop_assert!((x - found.s.get(i).unwrap_or(&0.0)).abs() <= bound);
            }
            prop_assert!(found.reconstruct().unwrap().max_abs_diff(&dense).unwrap() <= bound);
            prop_assert!(orthonormality(&found.u) <= 2.0 * unit_tolerance(&dense));
            prop_assert!(orthonormality(&found.vt.transpose()) <= 2.0 * unit_tolerance(&dense));
            let rank = 1 + (part * (found.s.len() - 1) as f64) as usize;
            let rest = dense.sub(&found.truncated(rank).unwrap().reconstruct().unwrap()).unwrap();
            let error = found.truncation_error(rank).unwrap();
            prop_assert!((rest.frobenius_norm() - error).abs() <= 4.0 * bound + tolerance(&dense));
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        let (a, b) = (seeded(4, 2, 1), seeded(2, 3, 2));
        assert!(sum_svd(&[]).is_err());
        assert!(sum_svd(&[(1.0, &a, &a)]).is_err());
        assert!(sum_svd(&[(1.0, &a, &b), (1.0, &seeded(5, 2, 1), &b)]).is_err());
        assert!(sum_svd(&[(1.0, &a, &b), (1.0, &a, &seeded(2, 4, 1))]).is_err());
        assert!(sum_svd(&[(f64::NAN, &a, &b)]).is_err());
        assert!(product_svd(&a, &b).is_ok() && product_svd(&b, &a).is_err());
    }
}
