//! KnOTS: updates in one common basis (Stoica et al. 2024, arXiv:2410.19735, section 4).
//!
//! ```text
//! [dW_1 ... dW_n] = U S [V_1 ... V_n]^T,     dW_i = U (S V_i^T)
//! ```
//!
//! side by side along the input. What is merged element by element, by whichever method, are the
//! S V_i^T `[k, in]` (the authors' code has the singular values on V by default, `s_on_V`), and the
//! result is U times the merge. The authors keep singular values above 1e-5; here all above
//! rounding, so that U S V_i^T is dW_i. Biases are no part of it.
//!
//! Updates of low rank stay in factors: with the QR decompositions [L_1 ... L_n] = Q T and
//! R_i^T = Q_i T_i, the matrix to decompose is T diag(T_1^T, ..., T_n^T), of sum_i r_i columns.

use engraft_linalg::{Matrix, Svd, qr, svd};

use super::{epsilon, significant};
use crate::error::Result;
use crate::strips::common_shape;
use crate::update::{Factors, Update, columns_beside};

/// Updates in a common basis.
#[derive(Debug, Clone, PartialEq)]
pub struct Aligned {
    /// U: `[out, k]`, orthonormal columns.
    pub basis: Matrix,
    /// S.
    pub singular_values: Vec<f64>,
    /// S V_i^T: `[k, in]` for each update.
    pub tasks: Vec<Matrix>,
}

impl Aligned {
    /// U M, for a merge M `[k, in]` of the tasks.
    ///
    /// # Errors
    /// A merge of another shape.
    pub fn restore(&self, merged: Matrix) -> Result<Update> {
        Ok(Update::low_rank(Factors::new(self.basis.clone(), merged)?))
    }
}

/// The updates of one module in their common basis. `base`: W, for updates that are relative to it.
///
/// # Errors
/// No updates, updates of different shapes, a missing base, NaN or infinite numbers.
pub fn knots(updates: &[&Update], base: Option<&[f32]>) -> Result<Aligned> {
    let (rows, columns) = common_shape(updates)?;
    let factors: Option<Vec<&Factors>> = updates.iter().map(|update| thin(update)).collect();
    let (all, right) = match factors {
        Some(factors) if factors.iter().map(|f| f.rank()).sum::<usize>() < columns => {
            in_factors(&factors)?
        }
        _ => {
            let matrices = updates.iter().map(|update| match thin(update) {
                Some(factors) => factors.product(),
                None => update.to_dense(base)?.to_matrix(),
            });
            let matrices = matrices.collect::<Result<Vec<_>>>()?;
            let side_by_side = columns_beside(&matrices.iter().collect::<Vec<_>>())?;
            (svd(&side_by_side)?, vec![None; updates.len()])
        }
    };
    let kept = significant(&all, all.s[0], epsilon(updates)).max(1);
    let Svd { u, s, vt } = all.truncated(kept)?;
    let scaled = vt.scale_rows(&s)?;
    let mut tasks = Vec::with_capacity(updates.len());
    let mut start = 0;
    for basis in right {
        let width = basis.as_ref().map_or(columns, Matrix::rows);
        let own = scaled.columns(start..start + width)?;
        start += width;
        tasks.push(match basis {
            Some(basis) => own.matmul(&basis)?,
            None => own,
        });
    }
    debug_assert_eq!(u.rows(), rows);
    Ok(Aligned {
        basis: u,
        singular_values: s,
        tasks,
    })
}

/// The factors of an update that has nothing else.
fn thin(update: &Update) -> Option<&Factors> {
    let factors = update.low_rank.as_ref();
    factors.filter(|factors| update.is_low_rank() && factors.rank() > 0)
}

/// U, S and the coefficients of each V_i in the orthonormal rows Q_i^T of its R_i.
fn in_factors(factors: &[&Factors]) -> Result<(Svd, Vec<Option<Matrix>>)> {
    let lefts: Vec<&Matrix> = factors.iter().map(|factors| &factors.left).collect();
    let left = qr(&columns_beside(&lefts)?)?;
    let (mut middle, mut bases, mut start) = (Vec::new(), Vec::new(), 0);
    for factors in factors {
        let right = qr(&factors.right.transpose())?;
        let own = left.r.columns(start..start + factors.rank())?;
        middle.push(own.matmul(&right.r.transpose())?);
        bases.push(Some(right.q.transpose()));
        start += factors.rank();
    }
    let small = svd(&columns_beside(&middle.iter().collect::<Vec<_>>())?)?;
    let u = left.q.matmul(&small.u)?;
    Ok((Svd { u, ..small }, bases))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense, dense_of, low_rank, refs};

    fn check(updates: &[Update], tolerance: f64) {
        let aligned = knots(&refs(updates), None).unwrap();
        // Rounding is relative to all that is decomposed: a small task, or a sum that cancels, has
        // as much of it as the largest.
        let scale = updates
            .iter()
            .map(|u| dense_of(u).frobenius_norm())
            .sum::<f64>();
        let near = |a: &Matrix, b: &Matrix| {
            let error = a.sub(b).unwrap().frobenius_norm();
            assert!(error <= tolerance * scale, "{error:e} of {scale:e}");
        };
        for (task, update) in aligned.tasks.iter().zip(updates) {
            let again = aligned.restore(task.clone()).unwrap();
            near(&dense_of(&again), &dense_of(update));
        }
        let k = aligned.basis.cols();
        let gram = aligned.basis.transpose_matmul(&aligned.basis).unwrap();
        assert!(gram.max_abs_diff(&Matrix::identity(k)).unwrap() < 1e-12);
        // Rows of [S V_1^T ... S V_n^T] are orthogonal, of length s.
        let rows = columns_beside(&aligned.tasks.iter().collect::<Vec<_>>()).unwrap();
        let squares: Vec<f64> = aligned.singular_values.iter().map(|s| s * s).collect();
        let gram = rows.matmul(&rows.transpose()).unwrap();
        let difference = gram.sub(&Matrix::from_diagonal(&squares)).unwrap();
        assert!(difference.max_abs() < 1e-12 * squares[0]);
        // Merging linearly is the linear sum.
        let (mut merged, mut sum) = (
            aligned.tasks[0].scale(0.0),
            dense_of(&updates[0]).scale(0.0),
        );
        for (i, (task, update)) in aligned.tasks.iter().zip(updates).enumerate() {
            let weight = 0.5 + i as f64;
            merged = merged.add(&task.scale(weight)).unwrap();
            sum = sum.add(&dense_of(update).scale(weight)).unwrap();
        }
        let merged = dense_of(&aligned.restore(merged).unwrap());
        near(&merged, &sum);
    }

    proptest! {
        #[test]
        fn tasks_are_restored(m in 1usize..10, n in 1usize..10, r in 1usize..4, q in 1usize..4, seed: u64) {
            let thin = [low_rank(m, n, r, seed), low_rank(m, n, q, seed ^ 1), low_rank(m, n, 1, seed ^ 2)];
            check(&thin, 1e-11);
            check(&[dense(m, n, seed), low_rank(m, n, r, seed)], 1e-6);
        }

        #[test]
        fn factors_and_matrices_agree(m in 2usize..8, seed: u64) {
            let thin = [low_rank(m, 12, 2, seed), low_rank(m, 12, 3, seed ^ 1)];
            let whole: Vec<Update> = thin.iter().map(|u| Update::dense(u.to_dense(None).unwrap())).collect();
            let (a, b) = (knots(&refs(&thin), None).unwrap(), knots(&refs(&whole), None).unwrap());
            prop_assert_eq!(a.basis.cols(), 5.min(m));
            for (x, y) in a.singular_values.iter().zip(&b.singular_values) {
                prop_assert!((x - y).abs() < 1e-5 * a.singular_values[0]);
            }
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        let aligned = knots(&[&Update::zero(3, 4), &Update::zero(3, 4)], None).unwrap();
        assert_eq!(aligned.tasks[0].max_abs(), 0.0);
        assert!(knots(&[], None).is_err());
        assert!(knots(&[&Update::zero(3, 4), &Update::zero(4, 4)], None).is_err());
    }
}
