//! Isotropic merging (Marczak et al. 2025, arXiv:2502.04959).
//!
//! Iso-C (section 4.1): the sum of the updates with all singular values replaced by their mean,
//!
//! ```text
//! sum_i dW_i = U S V^T,     merge = mean(s) U V^T.
//! ```
//!
//! Iso-CTS (section 4.2, algorithm 2): the k leading directions of the sum, and of what each update
//! has outside of them, dW_i - U_k U_k^T dW_i, the (r - k) / T leading ones; all made orthonormal
//! together as in [TSV](super::tsv()), with the mean of all their singular values. k is the given
//! fraction of r, made such that the rest divides by T.
//!
//! Where the sum is of full rank, r is min(out, in). A sum of low rank has no directions beyond its
//! own, and r is its rank: padding with the arbitrary singular vectors of zeros, as a full
//! decomposition does, would add noise of the same size as the update. Biases are averaged, as in
//! the authors' code.

use engraft_linalg::Svd;

use super::{Collected, epsilon, mean_of_biases, significant, update_of};
use crate::error::{Error, Result};
use crate::factorise::{decomposed, relative};
use crate::strips::common_shape;
use crate::update::{Factors, Update};

/// Iso-C of the updates of one module. `base`: W, for updates that are relative to it.
///
/// # Errors
/// No updates, updates of different shapes, a missing base, NaN or infinite numbers.
pub fn iso_c(updates: &[&Update], base: Option<&[f32]>) -> Result<Update> {
    let (all, rank) = sum(updates, base)?;
    let merged = match rank {
        0 => None,
        rank => {
            let kept = all.truncated(rank)?;
            let level = vec![mean(&kept.s); rank];
            Some(Factors::new(kept.u.scale_columns(&level)?, kept.vt)?)
        }
    };
    update_of(merged, updates)?.plus(&mean_of_biases(updates)?)
}

/// Iso-CTS of the updates of one module, with `common` of the directions (the paper: 0.8) for what
/// the tasks share. `base`: W, for updates that are relative to it.
///
/// # Errors
/// As [`iso_c`], and a fraction outside 0 to 1.
pub fn iso_cts(updates: &[&Update], common: f64, base: Option<&[f32]>) -> Result<Update> {
    if !(0.0..=1.0).contains(&common) {
        return Err(Error::input(format!(
            "common fraction {common}: choose one from 0 to 1"
        )));
    }
    let (all, rank) = sum(updates, base)?;
    let own = own_directions(rank, updates.len(), common);
    let shared = rank - own * updates.len();
    let mut collected = Collected::default();
    if own > 0 {
        for update in updates {
            let rest = decomposed(&without(update, &all, shared, base)?, None)?;
            let scale = decomposed(update, base)?.s[0];
            let found = significant(&rest, scale, epsilon(&[update]));
            collected.add(&rest, own.min(found))?;
        }
    }
    collected.add(&all, shared)?;
    let level = vec![mean(&collected.s); collected.s.len()];
    update_of(collected.product(&level)?, updates)?.plus(&mean_of_biases(updates)?)
}

/// The directions of each task: the rest beside the common ones, divided and rounded, ties to even.
fn own_directions(rank: usize, tasks: usize, common: f64) -> usize {
    let rest = rank - (rank as f64 * common) as usize;
    let rounded = (rest as f64 / tasks as f64).round_ties_even() as usize;
    rounded.min(rank / tasks)
}

/// dW - U_k U_k^T dW.
fn without(update: &Update, all: &Svd, k: usize, base: Option<&[f32]>) -> Result<Update> {
    if k == 0 && !update.needs_base() {
        return Ok(update.clone());
    }
    let outside = |matrix: &engraft_linalg::Matrix| match k {
        0 => Ok(matrix.clone()),
        k => {
            let u = all.truncated(k)?.u;
            matrix.sub(&u.matmul(&u.transpose_matmul(matrix)?)?)
        }
    };
    match &update.low_rank {
        None if update.is_low_rank() => Ok(update.clone()),
        Some(factors) if update.is_low_rank() => Ok(Update::low_rank(Factors::new(
            outside(&factors.left)?,
            factors.right.clone(),
        )?)),
        _ => {
            let dense = update.to_dense(base)?;
            let data = outside(&dense.to_matrix()?)?.to_f32();
            Ok(Update::dense(crate::update::Dense { data, ..dense }))
        }
    }
}

/// The singular triples of the sum, and how many are above the rounding of its terms.
fn sum(updates: &[&Update], base: Option<&[f32]>) -> Result<(Svd, usize)> {
    common_shape(updates)?;
    let sum = Update::combination(updates.iter().map(|update| (1.0, *update)))?;
    let all = decomposed(&sum, base)?;
    let mut scale = all.s[0];
    if let Some(factors) = sum.low_rank.as_ref().filter(|_| sum.is_low_rank()) {
        // Terms that cancel leave the rounding of what they were.
        scale = scale.max(factors.left.frobenius_norm() * factors.right.frobenius_norm());
    }
    let rank = significant(&all, scale, epsilon(updates));
    Ok((all, rank))
}

fn mean(values: &[f64]) -> f64 {
    relative(values.iter().sum(), values.len() as f64)
}

#[cfg(test)]
mod tests {
    use engraft_linalg::{Matrix, svd};
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense, dense_of, distance, low_rank, refs};

    fn check_iso_c(tasks: &[Update], epsilon: f64) {
        let sum = tasks
            .iter()
            .fold(dense_of(&tasks[0]).scale(0.0), |sum, task| {
                sum.add(&dense_of(task)).unwrap()
            });
        let expected = svd(&sum).unwrap();
        let rank = expected
            .s
            .iter()
            .filter(|s| **s > 100.0 * epsilon * expected.s[0])
            .count();
        let merged = dense_of(&iso_c(&refs(tasks), None).unwrap());
        let found = svd(&merged).unwrap();
        let nuclear: f64 = expected.s.iter().sum();
        for s in &found.s[..rank] {
            assert!((s - nuclear / rank as f64).abs() < 100.0 * epsilon * nuclear);
        }
        assert!(
            found.s[rank..]
                .iter()
                .all(|s| *s < 100.0 * epsilon * nuclear)
        );
        // The sum's singular vectors: U^T merge V is a multiple of the identity.
        let kept = expected.truncated(rank).unwrap();
        let core = kept.u.transpose_matmul(&merged).unwrap();
        let core = core.matmul(&kept.vt.transpose()).unwrap();
        let level = Matrix::identity(rank).scale(nuclear / rank as f64);
        assert!(distance(&core, &level) < 1e4 * epsilon);
    }

    proptest! {
        #[test]
        fn iso_c_is_isotropic(m in 1usize..9, n in 1usize..9, r in 1usize..4, seed: u64) {
            check_iso_c(&[low_rank(m, n, r, seed), low_rank(m, n, r, seed ^ 1)], 1e-11);
            check_iso_c(&[dense(m, n, seed), dense(m, n, seed ^ 1)], 1e-6);
        }

        #[test]
        fn iso_cts_is_isotropic_and_holds_both_spaces(seed: u64, common in 0.0..=1.0f64) {
            let tasks = [low_rank(12, 14, 3, seed), low_rank(12, 14, 2, seed ^ 1), low_rank(12, 14, 3, seed ^ 2)];
            let merged = dense_of(&iso_cts(&refs(&tasks), common, None).unwrap());
            let all = svd(&merged).unwrap();
            let rank = all.s.iter().filter(|s| **s > 1e-8 * all.s[0]).count();
            prop_assert!(rank <= 8);
            for s in &all.s[..rank] {
                prop_assert!((s - all.s[0]).abs() < 1e-7 * all.s[0]);
            }
            if own_directions(8, 3, common) == 0 {
                let iso = dense_of(&iso_c(&refs(&tasks), None).unwrap());
                prop_assert!(distance(&merged, &iso) < 1e-9);
            }
        }

        #[test]
        fn the_rest_divides_by_the_tasks(rank in 0usize..200, tasks in 1usize..20, common in 0.0..=1.0f64) {
            prop_assert!(own_directions(rank, tasks, common) * tasks <= rank);
        }
    }

    #[test]
    fn directions_as_the_authors_count_them() {
        // 768 directions, 8 tasks, 0.8: 614 in common, 154 / 8 = 19.25 for each.
        assert_eq!(own_directions(768, 8, 0.8), 19);
        assert_eq!(own_directions(8, 3, 0.8), 1);
        assert_eq!(own_directions(10, 4, 1.0), 0);
    }

    #[test]
    fn what_cancels_is_zero() {
        let task = low_rank(5, 6, 2, 3);
        let negated = task.scaled(-1.0);
        for merged in [
            iso_c(&[&task, &negated], None).unwrap(),
            iso_cts(&[&task, &negated], 0.8, None).unwrap(),
        ] {
            assert_eq!(dense_of(&merged).max_abs(), 0.0);
        }
        assert!(iso_cts(&[&task], 1.2, None).is_err());
        assert!(iso_c(&[], None).is_err());
    }
}
