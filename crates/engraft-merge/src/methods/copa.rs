//! CoPA-Merging, also RobustMerge: complementary scaling of pruned LoRA (Zeng et al. 2025,
//! arXiv:2502.17159, section 4; the authors' code in `llava/model/builder.py` of RobustMerge).
//!
//! For dW_t = B_t A_t of task t, all of rank r:
//!
//! ```text
//! A~, B~      the entries of largest magnitude of A and of B, `keep` of each; the rest is zero
//! S_tj        = sum_i |A_ji| / sum_i |A~_ji|, a compensation for each row j of A
//! S_tj        raised to the (1 - clamp) quantile of S_t where it is below
//! S^_tj       = S_tj / sum_u S_uj, normalised across tasks
//! ```
//!
//! [`Form::Joined`]: dW = sum_t B~_t diag(S^_t) A~_t, each B with its own A, of rank T r.
//! [`Form::Separate`], the released code's: A = f sum_t A~_t and B = f sum_t B~_t diag(S^_t), of rank
//! r, with cross-terms between tasks, and f = 2.
//!
//! A row of A that pruning empties compensates nothing: its S is zero (the authors divide by zero).

use engraft_linalg::Matrix;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::update::{Factors, columns_beside, rows_below};

/// How the pruned and scaled factors are put together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The sum of the tasks' products: at `keep` 1 the mean of the updates.
    #[default]
    Joined,
    /// The product of the factors' sums, each times the factor (the released code: 2).
    Separate {
        /// f.
        factor: f64,
    },
}

/// Options of CoPA-Merging, as in the paper by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Copa {
    /// Fraction of the entries of each factor that pruning keeps.
    pub keep: f64,
    /// Fraction of the largest compensations that stay as they are.
    pub clamp: f64,
    /// How the factors are put together.
    pub form: Form,
}

impl Default for Copa {
    fn default() -> Self {
        Self {
            keep: 0.2,
            clamp: 0.2,
            form: Form::Joined,
        }
    }
}

/// The merge of the factors of one module.
///
/// # Errors
/// No tasks, factors of different shapes or ranks, fractions outside 0 to 1.
pub fn copa(tasks: &[&Factors], options: &Copa) -> Result<Factors> {
    let Some(first) = tasks.first() else {
        return Err(Error::input("CoPA of no tasks: give at least one"));
    };
    let shape = |factors: &Factors| (factors.left.shape(), factors.right.shape());
    for (at, factors) in tasks.iter().enumerate() {
        if shape(factors) != shape(first) {
            return Err(Error::input(format!(
                "CoPA matches factors row by row: task 0 has {:?} and task {at} {:?}; factorise all at one rank",
                shape(first),
                shape(factors)
            )));
        }
    }
    for (name, value) in [("keep", options.keep), ("clamp", options.clamp)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::input(format!(
                "CoPA `{name}` {value}: choose a fraction from 0 to 1"
            )));
        }
    }
    let mut compensations = Vec::with_capacity(tasks.len());
    let (mut lefts, mut rights) = (Vec::new(), Vec::new());
    for factors in tasks {
        let right = pruned(&factors.right, options.keep);
        compensations.push(clamped(compensation(&factors.right, &right), options.clamp));
        lefts.push(pruned(&factors.left, options.keep));
        rights.push(right);
    }
    normalise(&mut compensations);
    for (left, scale) in lefts.iter_mut().zip(&compensations) {
        *left = left.scale_columns(scale)?;
    }
    match options.form {
        Form::Joined => Factors::new(
            columns_beside(&lefts.iter().collect::<Vec<_>>())?,
            rows_below(&rights.iter().collect::<Vec<_>>())?,
        ),
        Form::Separate { factor } => {
            Factors::new(total(&lefts)?.scale(factor), total(&rights)?.scale(factor))
        }
    }
}

/// The entries at least as large as the one that `keep` of all exceed.
fn pruned(matrix: &Matrix, keep: f64) -> Matrix {
    let mut sizes: Vec<f64> = matrix.as_slice().iter().map(|x| x.abs()).collect();
    let dropped = (sizes.len() as f64 * (1.0 - keep)) as usize;
    let Some(last) = dropped.checked_sub(1) else {
        return matrix.clone();
    };
    let (_, threshold, _) = sizes.select_nth_unstable_by(last, f64::total_cmp);
    let threshold = *threshold;
    Matrix::from_fn(matrix.rows(), matrix.cols(), |i, j| {
        let x = matrix.get(i, j);
        match x.abs() >= threshold {
            true => x,
            false => 0.0,
        }
    })
}

/// sum_i |A_ji| / sum_i |A~_ji| of each row j.
fn compensation(whole: &Matrix, pruned: &Matrix) -> Vec<f64> {
    let mass = |matrix: &Matrix, row: usize| matrix.row(row).iter().map(|x| x.abs()).sum::<f64>();
    let rows = (0..whole.rows()).map(|row| match mass(pruned, row) {
        0.0 => 0.0,
        rest => mass(whole, row) / rest,
    });
    rows.collect()
}

/// Compensations raised to their (1 - clamp) quantile; those of empty rows stay zero.
fn clamped(mut values: Vec<f64>, clamp: f64) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|x| *x > 0.0).collect();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * (1.0 - clamp)) as usize;
    if let Some(least) = sorted.get(at.min(sorted.len().saturating_sub(1))) {
        let raised = values.iter_mut().filter(|x| **x > 0.0);
        raised.for_each(|x| *x = x.max(*least));
    }
    values
}

/// Divided by their sum across tasks.
fn normalise(compensations: &mut [Vec<f64>]) {
    for row in 0..compensations[0].len() {
        let sum: f64 = compensations.iter().map(|values| values[row]).sum();
        if sum > 0.0 {
            compensations
                .iter_mut()
                .for_each(|values| values[row] /= sum);
        }
    }
}

fn total(matrices: &[Matrix]) -> Result<Matrix> {
    let mut sum = matrices[0].clone();
    for matrix in &matrices[1..] {
        sum = sum.add(matrix)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{distance, factors};

    proptest! {
        #[test]
        fn unpruned_is_the_mean(m in 1usize..8, n in 1usize..8, r in 1usize..5, tasks in 1usize..5, seed: u64) {
            let tasks: Vec<Factors> = (0..tasks as u64).map(|i| factors(m, n, r, seed ^ i)).collect();
            let all: Vec<&Factors> = tasks.iter().collect();
            let merged = copa(&all, &Copa { keep: 1.0, ..Copa::default() }).unwrap().product().unwrap();
            let products: Vec<Matrix> = tasks.iter().map(|t| t.product().unwrap()).collect();
            let mean = total(&products).unwrap().scale(1.0 / tasks.len() as f64);
            prop_assert!(distance(&merged, &mean) < 1e-12);
            // The released form: f^2 times the mean of B times the sum of A.
            let form = Form::Separate { factor: 2.0 };
            let apart = copa(&all, &Copa { keep: 1.0, form, ..Copa::default() }).unwrap();
            let lefts: Vec<Matrix> = tasks.iter().map(|t| t.left.clone()).collect();
            let expected = total(&lefts).unwrap().scale(2.0 / tasks.len() as f64);
            prop_assert!(distance(&apart.left, &expected) < 1e-12);
        }

        #[test]
        fn order_does_not_matter_and_scalings_pass_through(seed: u64, keep in 0.1..1.0f64, c in 0.1..5.0f64) {
            let (a, b) = (factors(6, 7, 3, seed), factors(6, 7, 3, seed ^ 1));
            let options = Copa { keep, ..Copa::default() };
            let merged = copa(&[&a, &b], &options).unwrap().product().unwrap();
            let turned = copa(&[&b, &a], &options).unwrap().product().unwrap();
            prop_assert!(distance(&turned, &merged) < 1e-12);
            let scaled = copa(&[&a.scaled(c), &b.scaled(c)], &options).unwrap().product().unwrap();
            prop_assert!(distance(&scaled, &merged.scale(c)) < 1e-12);
        }

        #[test]
        fn pruning_keeps_the_largest(m in 1usize..8, n in 1usize..8, keep in 0.0..1.0f64, seed: u64) {
            let matrix = crate::spectral::testing::matrix(m, n, seed);
            let kept = pruned(&matrix, keep);
            let smallest = kept.as_slice().iter().filter(|x| **x != 0.0).fold(f64::MAX, |s, x| s.min(x.abs()));
            let dropped = matrix.as_slice().iter().zip(kept.as_slice()).filter(|(_, k)| **k == 0.0);
            prop_assert!(dropped.clone().all(|(x, _)| x.abs() <= smallest));
            let expected = ((m * n) as f64 * (1.0 - keep)) as usize;
            prop_assert_eq!(dropped.count(), expected.saturating_sub(1));
        }
    }

    #[test]
    fn a_merge_by_hand() {
        // A: rows (4, 1) and (3, 2); the threshold is the second smallest, 2: A~ = (4, 0), (3, 2).
        let a = Matrix::from_rows(&[[4.0, 1.0], [3.0, 2.0]]).unwrap();
        let task = Factors::new(Matrix::identity(2), a.clone()).unwrap();
        let options = Copa {
            keep: 0.5,
            clamp: 1.0,
            form: Form::Separate { factor: 2.0 },
        };
        let merged = copa(&[&task], &options).unwrap();
        assert_eq!(merged.right.as_slice(), [8.0, 0.0, 6.0, 4.0]);
        // One task: the compensations 5/4 and 1 are normalised away.
        assert_eq!(merged.left, Matrix::identity(2).scale(2.0));
        assert_eq!(compensation(&a, &pruned(&a, 0.5)), [1.25, 1.0]);
        assert_eq!(clamped(vec![1.25, 1.0, 0.0], 0.2), [1.25, 1.25, 0.0]);
        assert_eq!(clamped(vec![1.25, 1.0], 1.0), [1.25, 1.0]);
    }

    #[test]
    fn tasks_that_do_not_match() {
        let (a, b) = (factors(3, 4, 2, 1), factors(3, 4, 1, 1));
        let error = copa(&[&a, &b], &Copa::default()).unwrap_err().to_string();
        assert!(error.contains("one rank"), "{error}");
        assert!(copa(&[], &Copa::default()).is_err());
        assert!(
            copa(
                &[&a],
                &Copa {
                    keep: 1.1,
                    ..Copa::default()
                }
            )
            .is_err()
        );
        let zero = Factors::new(Matrix::zeros(3, 2), Matrix::zeros(2, 4)).unwrap();
        let merged = copa(&[&zero, &zero], &Copa::default()).unwrap();
        assert_eq!(merged.product().unwrap().max_abs(), 0.0);
    }
}
