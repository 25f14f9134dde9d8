//! The update whose outputs are nearest to those of every task on its own inputs.

use engraft_linalg::{LinalgError, Matrix, solve};
use serde::{Deserialize, Serialize};

use super::check_shares;
use crate::error::{Error, Result};
use crate::pipeline::prepare::Prepared;
use crate::pipeline::rows::{Rows, filled};
use crate::update::{Factors, Update, columns_beside, rows_below};

/// With W: `[out, in]` and the inputs X_i of task i, the W that minimises
/// sum_i w_i ‖X_i (W - W_i)^T‖^2 (2212.09849, section 3.2 and equation 2):
///
/// ```text
/// dW = (sum_i w_i dW_i H_i) (sum_i w_i H_i)^-1
/// H_i = alpha G_i + (1 - alpha) diag(G_i) + ridge g I,   G_i = X_i^T X_i
/// ```
///
/// for g the weighted mean of the diagonals of all G_i. Low rank stays low rank: each right factor R_i becomes
/// w_i R_i H_i (sum_j w_j H_j)^-1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegMean {
    /// What is left of the entries off the diagonal, from 0 to 1: the mean of dW_i weighted per input, to the
    /// regression itself.
    pub alpha: f64,
    /// Pull of every task towards its own update, also where no input ever was.
    pub ridge: f64,
}

impl Default for RegMean {
    fn default() -> Self {
        Self {
            alpha: 0.9,
            ridge: 0.0,
        }
    }
}

impl RegMean {
    pub(super) fn check(&self) -> Result<()> {
        match (0.0..=1.0).contains(&self.alpha) && self.ridge >= 0.0 && self.ridge.is_finite() {
            true => Ok(()),
            false => Err(Error::input(format!(
                "regmean: alpha is {} and ridge {}, expected a number from 0 to 1 and one from 0 on",
                self.alpha, self.ridge
            ))),
        }
    }

    pub(super) fn merge(&self, tasks: &[Prepared]) -> Result<Update> {
        check_shares(tasks, "regmean")?;
        let grams = Grams::new(self, tasks)?;
        let factors = tasks.iter().map(|task| {
            let update = task.exact()?.update();
            update.is_low_rank().then_some(update.low_rank.as_ref())
        });
        match factors.collect::<Option<Vec<_>>>() {
            Some(factors) => grams.low_rank(tasks, &factors),
            None => grams.by_strips(tasks),
        }
    }
}

/// Gram matrices of the tasks, to multiply with from the right.
struct Grams<'a> {
    alpha: f64,
    /// ridge g.
    ridge: f64,
    grams: Vec<(f64, &'a Matrix)>,
    /// sum_i w_i H_i.
    sum: Matrix,
}

impl<'a> Grams<'a> {
    fn new(options: &RegMean, tasks: &[Prepared<'a>]) -> Result<Self> {
        let grams: Vec<(f64, &Matrix)> = tasks.iter().map(gram).collect::<Result<_>>()?;
        let inputs = grams.first().map_or(0, |(_, gram)| gram.rows());
        let mut diagonal = 0.0;
        let mut sum = Matrix::zeros(inputs, inputs);
        for (weight, gram) in &grams {
            for i in 0..inputs {
                let (into, from) = (sum.row_mut(i), gram.row(i));
                diagonal += weight * from[i];
                let terms = into.iter_mut().zip(from).enumerate();
                terms.for_each(|(j, (into, g))| *into += weight * off(options.alpha, i, j) * g);
            }
        }
        // ridge g I for each task, times its weight: g is the mean over inputs and weights.
        let weights: f64 = grams.iter().map(|(weight, _)| weight).sum();
        let ridge = options.ridge * diagonal / (inputs.max(1) as f64 * weights);
        (0..inputs).for_each(|i| sum.row_mut(i)[i] += weights * ridge);
        Ok(Self {
            alpha: options.alpha,
            ridge,
            grams,
            sum,
        })
    }

    /// w_i R H_i for R of any number of rows.
    fn times(&self, at: usize, r: &Matrix) -> Result<Matrix> {
        let (weight, gram) = self.grams[at];
        let product = r.matmul(gram)?;
        Ok(Matrix::from_fn(r.rows(), r.cols(), |i, j| {
            let diagonal = (1.0 - self.alpha) * gram.get(j, j) + self.ridge;
            weight * (self.alpha * product.get(i, j) + diagonal * r.get(i, j))
        }))
    }

    /// (sum_i w_i H_i)^-1 B, the sum being symmetric.
    fn solve(&self, b: &Matrix) -> Result<Matrix> {
        solve(&self.sum, b).map_err(|error| match error {
            LinalgError::Singular { .. } => Error::input(format!(
                "regmean: some combination of inputs never occurred in any task ({error}); give more \
                 calibration data, a smaller alpha than {}, or a small positive ridge",
                self.alpha
            )),
            error => error.into(),
        })
    }

    fn low_rank(&self, tasks: &[Prepared], factors: &[Option<&Factors>]) -> Result<Update> {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (at, factors) in factors.iter().enumerate() {
            if let Some(factors) = factors.filter(|factors| factors.rank() > 0) {
                left.push(&factors.left);
                right.push(self.times(at, &factors.right)?);
            }
        }
        if left.is_empty() {
            let (rows, columns) = tasks.first().map_or((0, 0), Rows::shape);
            return Ok(Update::zero(rows, columns));
        }
        let right = rows_below(&right.iter().collect::<Vec<_>>())?;
        let right = self.solve(&right.transpose())?.transpose();
        Ok(Update::low_rank(Factors::new(
            columns_beside(&left)?,
            right,
        )?))
    }

    fn by_strips(&self, tasks: &[Prepared]) -> Result<Update> {
        let (rows, columns) = tasks.first().map_or((0, 0), Rows::shape);
        let inverse = self.solve(&Matrix::identity(columns))?;
        let merged = filled((rows, columns), |range, into| {
            let mut sum = Matrix::zeros(range.len(), columns);
            for (at, task) in tasks.iter().enumerate() {
                let strip = Matrix::from_f32(range.len(), columns, &task.strip(range.clone())?)?;
                sum = sum.add(&self.times(at, &strip)?)?;
            }
            into.copy_from_slice(&sum.matmul(&inverse)?.to_f32());
            Ok(())
        })?;
        Ok(Update::dense(merged))
    }
}

/// What an entry of a Gram matrix counts.
fn off(alpha: f64, i: usize, j: usize) -> f64 {
    if i == j { 1.0 } else { alpha }
}

/// The weight of a task and its Gram matrix, checked.
fn gram<'a>(task: &Prepared<'a>) -> Result<(f64, &'a Matrix)> {
    let Some(gram) = task.task.gram else {
        return Err(task.error(
            "regmean wants the Gram matrix X^T X of the module's inputs, from a calibration pass; without \
             one, `average` merges",
        ));
    };
    let inputs = task.shape().1;
    if gram.shape() != (inputs, inputs) {
        let (rows, columns) = gram.shape();
        return Err(task.error(format!(
            "a Gram matrix of {rows}x{columns} for {inputs} inputs"
        )));
    }
    let checked = gram.check_finite("Gram matrix");
    checked.map_err(|error| task.error(error))?;
    Ok((task.task.weight, gram))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::pipeline::testing::{close, dense, low_rank, method};
    use crate::pipeline::{Survey, Task};

    fn gram(inputs: usize, seed: u64) -> Matrix {
        let x = dense(2 * inputs, inputs, seed)
            .dense
            .unwrap()
            .to_matrix()
            .unwrap();
        x.transpose_matmul(&x).unwrap()
    }

    fn whole(update: &Update) -> Matrix {
        update.to_dense(None).unwrap().to_matrix().unwrap()
    }

    fn merge(
        options: serde_json::Value,
        updates: &[Update],
        weights: &[f64],
        grams: &[Matrix],
    ) -> Result<Update> {
        let names: Vec<String> = (0..updates.len()).map(|at| at.to_string()).collect();
        let tasks = (0..updates.len()).map(|at| Task {
            gram: grams.get(at),
            ..Task::new(&names[at], weights[at], &updates[at])
        });
        method("regmean", options).merge("m", &tasks.collect::<Vec<_>>(), &Survey::default())
    }

    /// H of the docstring.
    fn reduced(gram: &Matrix, alpha: f64, ridge: f64) -> Matrix {
        Matrix::from_fn(gram.rows(), gram.cols(), |i, j| match i == j {
            true => gram.get(i, j) + ridge,
            false => alpha * gram.get(i, j),
        })
    }

    proptest! {
        #[test]
        fn the_gradient_of_the_objective_is_zero(
            seed: u64, factored: bool, alpha in 0.0..=1.0, ridge in 0.0..0.1,
            weights in prop::collection::vec(0.1..2.0, 3),
        ) {
            let (out, inputs) = (7, 5);
            let updates: Vec<Update> = (0..3).map(|at| match factored {
                true => low_rank(out, inputs, 2, seed ^ at),
                false => dense(out, inputs, seed ^ at),
            }).collect();
            let grams: Vec<Matrix> = (0..3).map(|at| gram(inputs, seed ^ (at + 8))).collect();
            let found = merge(json!({"alpha": alpha, "ridge": ridge}), &updates, &weights, &grams).unwrap();
            prop_assert_eq!(found.low_rank.as_ref().map(Factors::rank), factored.then_some(6));
            let diagonal = |at: usize| (0..inputs).map(|i| grams[at].get(i, i)).sum::<f64>() * weights[at];
            let g = (0..3).map(diagonal).sum::<f64>() / (inputs as f64 * weights.iter().sum::<f64>());
            let merged = whole(&found);
            let (mut gradient, mut scale) = (Matrix::zeros(out, inputs), 0.0);
            for at in 0..3 {
                let step = merged.sub(&whole(&updates[at])).unwrap();
                let term = step.matmul(&reduced(&grams[at], alpha, ridge * g)).unwrap().scale(weights[at]);
                scale += term.frobenius_norm();
                gradient = gradient.add(&term).unwrap();
            }
            // Single precision, times the condition of the sum of Gram matrices.
            prop_assert!(gradient.frobenius_norm() <= 1e-5 * scale, "{}", gradient.frobenius_norm() / scale);
        }

        #[test]
        fn equal_inputs_give_the_mean(seed: u64, factored: bool, alpha in 0.0..=1.0) {
            let updates: Vec<Update> = (0..3).map(|at| match factored {
                true => low_rank(6, 4, 2, seed ^ at),
                false => dense(6, 4, seed ^ at),
            }).collect();
            let grams = vec![gram(4, seed); 3];
            let found = merge(json!({"alpha": alpha}), &updates, &[1.0, 2.0, 1.0], &grams).unwrap();
            let terms = updates.iter().zip([0.25, 0.5, 0.25]);
            let mean = Update::combination(terms.map(|(update, c)| (c, update))).unwrap();
            close(&whole(&found).to_f32(), &whole(&mean).to_f32(), 1e-5);
        }
    }

    #[test]
    fn inputs_that_never_occurred_are_named_and_ridge_helps() {
        let mut dead = gram(4, 1);
        (0..4).for_each(|at| {
            dead.set(at, 2, 0.0);
            dead.set(2, at, 0.0);
        });
        let updates = [dense(3, 4, 1), dense(3, 4, 2)];
        let grams = [dead.clone(), dead];
        let refused = merge(json!({}), &updates, &[1.0, 1.0], &grams).unwrap_err();
        assert!(refused.to_string().contains("positive ridge"), "{refused}");
        let found = whole(&merge(json!({"ridge": 1e-6}), &updates, &[1.0, 1.0], &grams).unwrap());
        let mean = whole(&updates[0])
            .add(&whole(&updates[1]))
            .unwrap()
            .scale(0.5);
        let column = |matrix: &Matrix| matrix.columns(2..3).unwrap().to_f32();
        close(&column(&found), &column(&mean), 1e-5);
        assert!(merge(json!({}), &updates, &[1.0, 1.0], &[gram(4, 1), gram(3, 1)]).is_err());
        assert!(merge(json!({}), &updates, &[1.0, -1.0], &grams).is_err());
    }
}
