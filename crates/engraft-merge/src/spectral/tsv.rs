//! TSV-Merge: task singular vectors made orthogonal across tasks (Gargiulo et al. 2024,
//! arXiv:2412.00081, section 4.2, algorithm 1).
//!
//! ```text
//! dW_i ~ U_i S_i V_i^T, the k leading triples of each of T tasks
//! U = [U_1 ... U_T],  V = [V_1 ... V_T]
//! merge = Q_U diag(S_1, ..., S_T) Q_V^T,     Q_M = argmin_{Q^T Q = I} |Q - M|
//! ```
//!
//! with Q_M = P Q^T of M = P S Q^T. Where M has no full rank (tasks that share directions) Q_M is
//! not unique; here it is the one that vanishes with M, so that merging a task with itself gives
//! that task, and with its negation zero. Biases are averaged, as in the authors' code.

use serde::{Deserialize, Serialize};

use super::{Collected, epsilon, mean_of_biases, significant, update_of};
use crate::error::{Error, Result};
use crate::factorise::decomposed;
use crate::strips::common_shape;
use crate::update::Update;

/// How many triples of a task to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// min(out, in) / T, so that all of them together fill the matrix: the paper's. All of a task of
    /// lower rank.
    #[default]
    Side,
    /// rank / T of the task's own rank, so that the merge has the rank of a task.
    Rank,
    /// So many.
    Triples(usize),
}

/// The merge of the updates of one module. `base`: W, for updates that are relative to it.
///
/// # Errors
/// No updates, updates of different shapes, no triples to keep, a missing base, NaN or infinite numbers.
pub fn tsv(updates: &[&Update], keep: Keep, base: Option<&[f32]>) -> Result<Update> {
    let (rows, columns) = common_shape(updates)?;
    if keep == Keep::Triples(0) {
        return Err(Error::input("TSV of no triples: keep at least one"));
    }
    let mut collected = Collected::default();
    for update in updates {
        let all = decomposed(update, base)?;
        let own = significant(&all, all.s[0], epsilon(&[update]));
        let count = match keep {
            Keep::Side => rows.min(columns) / updates.len(),
            Keep::Rank => own / updates.len(),
            Keep::Triples(count) => count,
        };
        collected.add(&all, count.max(1).min(own))?;
    }
    let merged = collected.product(&collected.s)?;
    update_of(merged, updates)?.plus(&mean_of_biases(updates)?)
}

#[cfg(test)]
mod tests {
    use engraft_linalg::{Matrix, svd};
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense, dense_of, distance, low_rank, refs};

    proptest! {
        #[test]
        fn one_task_is_itself(m in 1usize..9, n in 1usize..9, r in 1usize..9, seed: u64) {
            let update = low_rank(m, n, r, seed);
            for keep in [Keep::Side, Keep::Rank, Keep::Triples(m.min(n))] {
                let merged = tsv(&[&update], keep, None).unwrap();
                prop_assert!(distance(&dense_of(&merged), &dense_of(&update)) < 1e-10);
                let twice = tsv(&[&update, &update], Keep::Triples(m.min(n)), None).unwrap();
                prop_assert!(distance(&dense_of(&twice), &dense_of(&update)) < 1e-10);
            }
            let negated = tsv(&[&update, &update.scaled(-1.0)], Keep::Triples(9), None).unwrap();
            prop_assert!(dense_of(&negated).max_abs() < 1e-10 * dense_of(&update).max_abs());
        }

        #[test]
        fn the_merge_has_the_tasks_singular_values(m in 6usize..12, n in 6usize..12, seed: u64) {
            let tasks = [low_rank(m, n, 2, seed), low_rank(m, n, 1, seed ^ 1), low_rank(m, n, 2, seed ^ 2)];
            let merged = tsv(&refs(&tasks), Keep::Triples(2), None).unwrap();
            let mut expected: Vec<f64> = tasks.iter().flat_map(|t| t.low_rank.as_ref().unwrap().svd().unwrap().s).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            let found = merged.low_rank.as_ref().unwrap().svd().unwrap();
            for (x, y) in found.s.iter().zip(&expected) {
                prop_assert!((x - y).abs() < 1e-9 * expected[0], "{x} {y}");
            }
            let by_order = tsv(&[&tasks[2], &tasks[0], &tasks[1]], Keep::Triples(2), None).unwrap();
            prop_assert!(distance(&dense_of(&by_order), &dense_of(&merged)) < 1e-8);
        }

        #[test]
        fn orthogonal_tasks_add_up(seed: u64) {
            let (u, v) = (svd(&crate::spectral::testing::matrix(6, 6, seed)).unwrap().u, svd(&crate::spectral::testing::matrix(7, 7, !seed)).unwrap().u);
            let task = |i: usize| {
                let left = u.columns(2 * i..2 * i + 2).unwrap().scale_columns(&[2.0, 1.0]).unwrap();
                let right = v.columns(2 * i..2 * i + 2).unwrap().transpose();
                Update::low_rank(crate::update::Factors::new(left, right).unwrap())
            };
            let tasks = [task(0), task(1), task(2)];
            let merged = dense_of(&tsv(&refs(&tasks), Keep::Side, None).unwrap());
            let sum = tasks.iter().fold(Matrix::zeros(6, 7), |sum, t| sum.add(&dense_of(t)).unwrap());
            prop_assert!(distance(&merged, &sum) < 1e-11);
        }
    }

    #[test]
    fn matrices_share_their_side() {
        let mut tasks = [dense(8, 6, 1), dense(8, 6, 2), dense(8, 6, 3)];
        tasks[0].bias = Some(vec![3.0; 8]);
        let merged = tsv(&refs(&tasks), Keep::Side, None).unwrap();
        assert_eq!(merged.bias, Some(vec![1.0; 8]));
        let found = svd(&dense_of(&merged)).unwrap().s;
        let mut expected: Vec<f64> = tasks
            .iter()
            .flat_map(|task| svd(&dense_of(task)).unwrap().s[..2].to_vec())
            .collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        for (x, y) in found.iter().zip(&expected) {
            assert!((x - y).abs() < 1e-5 * expected[0]);
        }
        assert!(tsv(&[], Keep::Side, None).is_err());
        assert!(tsv(&refs(&tasks), Keep::Triples(0), None).is_err());
        let zero = tsv(&[&Update::zero(2, 3)], Keep::Side, None).unwrap();
        assert_eq!(dense_of(&zero).max_abs(), 0.0);
    }
}
