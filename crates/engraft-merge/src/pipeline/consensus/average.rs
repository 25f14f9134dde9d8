//! Means, of all entries alike or of each by its importance.

use serde::{Deserialize, Serialize};

use super::{check_shares, rows, weights};
use crate::error::{Error, Result};
use crate::pipeline::prepare::Prepared;
use crate::pipeline::rows::{Rows, by_place};
use crate::update::Dense;

/// w_i / sum_j w_j.
pub(super) fn shares(weights: &[f64]) -> Result<Vec<f64>> {
    let sum: f64 = weights.iter().sum();
    match sum.abs() > f64::EPSILON * weights.iter().map(|w| w.abs()).sum::<f64>() {
        true => Ok(weights.iter().map(|w| w / sum).collect()),
        false => Err(Error::input(format!(
            "the weights {weights:?} add up to {sum}, and a mean divides by their sum: use `sum`"
        ))),
    }
}

/// At each place
///
/// ```text
/// dW = sum_i w_i max(F_i, floor) dW_i / sum_i w_i max(F_i, floor)
/// ```
///
/// for F_i the diagonal of task i's Fisher information (2111.09832, section 3.2). The floor makes it the plain
/// mean where no task has any information.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fisher {
    /// Least information, positive.
    pub floor: f64,
}

impl Default for Fisher {
    fn default() -> Self {
        Self { floor: 1e-10 }
    }
}

impl Fisher {
    pub(super) fn check(&self) -> Result<()> {
        match self.floor > 0.0 && self.floor.is_finite() {
            true => Ok(()),
            false => Err(Error::input(format!(
                "fisher: floor is {}, expected a positive number",
                self.floor
            ))),
        }
    }

    pub(super) fn merge(&self, tasks: &[Prepared]) -> Result<Dense> {
        check_shares(tasks, "fisher")?;
        let weights = weights(tasks);
        let information: Vec<Information> =
            tasks.iter().map(Information::of).collect::<Result<_>>()?;
        let mut matrices = rows(tasks);
        matrices.extend(information.iter().map(|rows| rows as &dyn Rows));
        by_place(&matrices, |numbers| {
            let (x, f) = numbers.split_at(weights.len());
            let (mut sum, mut share) = (0.0, 0.0);
            for ((w, x), f) in weights.iter().zip(x).zip(f) {
                let information = w * f64::from(*f).max(self.floor);
                sum += information * f64::from(*x);
                share += information;
            }
            sum / share
        })
    }
}

/// The Fisher information of a task, checked as it is read.
struct Information<'a> {
    task: &'a Prepared<'a>,
    rows: &'a dyn Rows,
}

impl<'a> Information<'a> {
    fn of(task: &'a Prepared<'a>) -> Result<Self> {
        let Some(rows) = task.task.fisher else {
            return Err(task.error(
                "fisher wants the diagonal of the task's Fisher information, from a calibration pass; \
                 without one, `average` merges",
            ));
        };
        match (rows.shape(), task.shape()) {
            (found, expected) if found == expected => Ok(Self { task, rows }),
            (found, expected) => Err(task.error(format!(
                "Fisher information of {}x{} for a weight of {}x{}",
                found.0, found.1, expected.0, expected.1
            ))),
        }
    }
}

impl Rows for Information<'_> {
    fn shape(&self) -> (usize, usize) {
        self.rows.shape()
    }

    fn strip(&self, rows: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let strip = self.rows.strip(rows)?;
        match strip.iter().find(|f| !(**f >= 0.0 && f.is_finite())) {
            None => Ok(strip),
            Some(f) => Err(self.task.error(format!(
                "Fisher information of {f}, expected finite numbers from 0 on"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use crate::pipeline::testing::{close, method, update};
    use crate::pipeline::{Survey, Task};
    use crate::update::{Dense, Update};

    fn merge(
        updates: &[Update],
        weights: &[f64],
        fisher: &[Dense],
        base: &[f32],
    ) -> crate::Result<Update> {
        let names = ["a", "b", "c"];
        let tasks = (0..updates.len()).map(|at| Task {
            base: Some(base),
            fisher: Some(&fisher[at]),
            ..Task::new(names[at], weights[at], &updates[at])
        });
        method("fisher", json!({})).merge("m", &tasks.collect::<Vec<_>>(), &Survey::default())
    }

    proptest! {
        #[test]
        fn information_weighs_each_place(seed: u64, weights in prop::collection::vec(0.1..2.0, 3)) {
            let base: Vec<f32> = (0..20).map(|x| (x as f32).cos()).collect();
            let updates: Vec<Update> = (0..3).map(|at| update(4, 5, seed ^ at)).collect();
            let fisher: Vec<Dense> = (0..3u64).map(|at| {
                let numbers = (0..20u64).map(|x| ((seed >> (x + at)) % 5) as f32);
                Dense::new(4, 5, numbers.collect()).unwrap()
            }).collect();
            let tasks: Vec<Dense> = updates.iter().map(|update| update.to_dense(Some(&base)).unwrap()).collect();
            let expected: Vec<f32> = (0..20).map(|place| {
                let (mut sum, mut share) = (0.0, 0.0);
                for at in 0..3 {
                    let f = weights[at] * f64::from(fisher[at].data[place]).max(1e-10);
                    sum += f * f64::from(tasks[at].data[place]);
                    share += f;
                }
                (sum / share) as f32
            }).collect();
            let found = merge(&updates, &weights, &fisher, &base).unwrap();
            close(&found.to_dense(None).unwrap().data, &expected, 1e-5);
            let equal = merge(&updates, &weights, &vec![fisher[0].clone(); 3], &base).unwrap();
            let total: f64 = weights.iter().sum();
            let mean = Update::combination(updates.iter().zip(&weights).map(|(update, w)| (w / total, update))).unwrap();
            close(&equal.to_dense(None).unwrap().data, &mean.to_dense(Some(&base)).unwrap().data, 1e-5);
            let bias = |update: Update| update.bias.unwrap_or_default().iter().map(|x| *x as f32).collect::<Vec<_>>();
            close(&bias(equal), &bias(mean), 1e-5);
        }
    }

    #[test]
    fn information_that_is_none_is_refused() {
        let updates = [update(2, 2, 1), update(2, 2, 2)];
        let fisher = |x| Dense::new(2, 2, vec![1.0, 1.0, x, 1.0]).unwrap();
        let error = |fisher: [Dense; 2]| {
            merge(&updates, &[1.0, 1.0], &fisher, &[1.0; 4])
                .unwrap_err()
                .to_string()
        };
        assert!(
            error([fisher(1.0), fisher(-1.0)])
                .contains("adapter `b`, module `m`: Fisher information of -1")
        );
        let wide = Dense::new(1, 4, vec![1.0; 4]).unwrap();
        assert!(error([wide, fisher(1.0)]).contains("1x4 for a weight of 2x2"));
    }
}
