//! One-sided Jacobi singular value decomposition, slower than bidiagonalisation but sure to
//! converge.

use crate::error::{LinalgError, Result};
use crate::givens::Givens;
use crate::matrix::Matrix;
use crate::qr::{Qr, qr};
use crate::svd::Svd;

/// Sweeps over all pairs of rows; the convergence is quadratic and ten are rarely needed.
const MAX_SWEEPS: usize = 60;

/// Thin singular value decomposition of a matrix with entries of order one, without the sign
/// convention.
///
/// Plane rotations J make the rows of J R orthogonal, where A = Q R (Golub and Van Loan 2013,
/// section 8.6.3). With J R = S W^T this gives A = (Q J^T) S W^T.
pub(crate) fn jacobi_svd(a: &Matrix) -> Result<Svd> {
    if a.rows() < a.cols() {
        let Svd { u, s, vt } = jacobi_svd(&a.transpose())?;
        return Ok(Svd {
            u: vt.transpose(),
            s,
            vt: u.transpose(),
        });
    }
    let n = a.cols();
    let Qr { q, r: mut rows } = qr(a)?;
    let mut rotation = Matrix::identity(n);
    if !(0..MAX_SWEEPS).any(|_| is_orthogonal_after_sweep(&mut rows, &mut rotation)) {
        return Err(LinalgError::NoConvergence {
            rows: a.rows(),
            cols: a.cols(),
        });
    }

    let norms: Vec<f64> = (0..n)
        .map(|i| dot(rows.row(i), rows.row(i)).sqrt())
        .collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| norms[j].total_cmp(&norms[i]));
    let sorted = |m: &Matrix| Matrix::from_fn(n, n, |i, j| m.get(order[i], j));
    // The columns are orthogonal already; QR normalises them and completes those that vanish.
    let w = qr(&sorted(&rows).transpose())?.q;
    Ok(Svd {
        u: q.matmul(&sorted(&rotation).transpose())?,
        s: order.iter().map(|&i| norms[i]).collect(),
        vt: w.transpose(),
    })
}

/// Rotates every pair of rows to orthogonality; true if all pairs had it to rounding.
fn is_orthogonal_after_sweep(rows: &mut Matrix, rotation: &mut Matrix) -> bool {
    let n = rows.rows();
    let tolerance = n as f64 * f64::EPSILON;
    let mut orthogonal = true;
    for i in 0..n {
        for j in i + 1..n {
            let (x, y) = (rows.row(i), rows.row(j));
            let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
            if xy.abs() <= tolerance * xx.sqrt() * yy.sqrt() {
                continue;
            }
            orthogonal = false;
            // Tangent of the smaller of the two angles that do it.
            let zeta = (yy - xx) / (2.0 * xy);
            let tan = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
            let cos = 1.0 / tan.hypot(1.0);
            let plane = Givens {
                i,
                j,
                cos,
                sin: cos * tan,
            };
            plane.rotate(rows);
            plane.rotate(rotation);
        }
    }
    orthogonal
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::svd;
    use crate::testing::{matrices, orthonormality, tolerance, unit_tolerance};

    proptest! {
        #[test]
        fn defining_identity_and_agreement(a in matrices()) {
            let a = a.scale(1.0 / a.max_abs().max(f64::MIN_POSITIVE));
            let found = jacobi_svd(&a).unwrap();
            let bound = 2.0 * tolerance(&a);
            prop_assert!(found.reconstruct().unwrap().max_abs_diff(&a).unwrap() <= bound);
            prop_assert!(orthonormality(&found.u) <= 2.0 * unit_tolerance(&a));
            prop_assert!(orthonormality(&found.vt.transpose()) <= 2.0 * unit_tolerance(&a));
            for (ours, theirs) in found.s.iter().zip(&svd(&a).unwrap().s) {
                prop_assert!((ours - theirs).abs() <= bound);
            }
        }
    }
}
