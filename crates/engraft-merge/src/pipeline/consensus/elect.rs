//! Election of signs.

use serde::{Deserialize, Serialize};

use super::{check_shares, rows, weights};
use crate::error::Result;
use crate::pipeline::prepare::Prepared;
use crate::pipeline::rows::by_place;
use crate::update::Dense;

/// At each place: gamma = sign(sum_i vote_i), and of the tasks whose entry has that sign
///
/// ```text
/// dW = sum_(i agrees) w_i dW_i / how many agree
/// ```
///
/// the disjoint mean of TIES-Merging (2306.01708, section 3.2, steps 2 and 3; lambda is a rescaling). Entries
/// that are zero vote for nobody and agree with nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Elected {
    /// What a vote counts.
    pub by: By,
    /// What votes.
    pub votes: Votes,
    /// By what the sum of those that agree is divided.
    pub divide: Divide,
    /// Who wins a draw.
    pub draw: Draw,
}

/// What a vote counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Its magnitude: the sign of the sum (the paper's).
    #[default]
    Mass,
    /// One: the sign of the majority.
    #[serde(alias = "frequency")]
    Count,
}

/// What votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Votes {
    /// dW_i, whatever the weights.
    #[default]
    Plain,
    /// w_i dW_i: a weight of 0 does not vote, a negative one votes for the contrary.
    Weighted,
}

/// By what the sum of those that agree is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divide {
    /// How many agree.
    #[default]
    Agreeing,
    /// The sum of the weights of those that agree; no weight may be negative.
    Weights,
    /// Nothing.
    Nothing,
}

/// Who wins where the votes add up to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Draw {
    /// No sign: the entry is zero, and an update with its negation cancels.
    #[default]
    Neither,
    /// The positive sign.
    Positive,
}

impl Elected {
    pub(super) fn merge(&self, tasks: &[Prepared]) -> Result<Dense> {
        if self.divide == Divide::Weights {
            check_shares(tasks, "division by weights")?;
        }
        let weights = weights(tasks);
        by_place(&rows(tasks), |x| self.merged(x, &weights))
    }

    /// The entry from those of the tasks.
    fn merged(&self, x: &[f32], weights: &[f64]) -> f64 {
        let opinion = |x: f32, w: f64| match self.votes {
            Votes::Plain => f64::from(x),
            Votes::Weighted => w * f64::from(x),
        };
        let votes = x.iter().zip(weights).map(|(x, w)| opinion(*x, *w));
        let total: f64 = match self.by {
            By::Mass => votes.sum(),
            By::Count => votes.map(sign).sum(),
        };
        let elected = match (sign(total), self.draw) {
            (0.0, Draw::Neither) => return 0.0,
            (0.0, Draw::Positive) => 1.0,
            (sign, _) => sign,
        };
        let (mut sum, mut count, mut weight) = (0.0, 0.0, 0.0);
        for (x, w) in x.iter().zip(weights) {
            if sign(opinion(*x, *w)) == elected {
                sum += w * f64::from(*x);
                count += 1.0;
                weight += w;
            }
        }
        let divisor = match self.divide {
            Divide::Agreeing => count,
            Divide::Weights => weight,
            Divide::Nothing => 1.0,
        };
        match divisor == 0.0 {
            true => 0.0,
            false => sum / divisor,
        }
    }
}

/// -1, 0 or 1.
fn sign(x: f64) -> f64 {
    match x {
        0.0 => 0.0,
        x => x.signum(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use crate::pipeline::testing::{close, merged, method, update};

    /// Trim, elect, mean, of whole matrices and by sorting.
    fn ties(
        tasks: &[Vec<f32>],
        weights: &[f64],
        density: f64,
        count: bool,
        weighted: bool,
        divide: &str,
    ) -> Vec<f32> {
        let trimmed: Vec<Vec<f32>> = tasks
            .iter()
            .map(|task| {
                let mut order: Vec<usize> = (0..task.len()).collect();
                order.sort_by(|a, b| task[*b].abs().total_cmp(&task[*a].abs()));
                let mut kept = vec![0.0; task.len()];
                let k = (density * task.len() as f64) as usize;
                order[..k].iter().for_each(|at| kept[*at] = task[*at]);
                kept
            })
            .collect();
        (0..tasks[0].len())
            .map(|at| {
                let entries: Vec<(f64, f64)> = trimmed
                    .iter()
                    .zip(weights)
                    .map(|(task, w)| (f64::from(task[at]), *w))
                    .collect();
                let opinion = |(x, w): (f64, f64)| if weighted { x * w } else { x };
                let votes = entries.iter().map(|entry| opinion(*entry));
                let total: f64 = match count {
                    true => votes.filter(|x| *x != 0.0).map(f64::signum).sum(),
                    false => votes.sum(),
                };
                let agree: Vec<(f64, f64)> = entries
                    .iter()
                    .copied()
                    .filter(|entry| opinion(*entry) * total > 0.0)
                    .collect();
                let sum: f64 = agree.iter().map(|(x, w)| x * w).sum();
                let divisor = match divide {
                    "agreeing" => agree.len() as f64,
                    "weights" => agree.iter().map(|(_, w)| w).sum(),
                    _ => 1.0,
                };
                if agree.is_empty() {
                    0.0
                } else {
                    (sum / divisor) as f32
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn elections_are_those_of_whole_matrices(
            seed: u64,
            weights in prop::collection::vec(0.1..2.0, 1..5),
            density in 0.0..1.2f64,
            count: bool,
            weighted: bool,
            divide in prop::sample::select(vec!["agreeing", "weights", "nothing"]),
        ) {
            let base: Vec<f32> = (0..63).map(|x| (x as f32).sin()).collect();
            let updates: Vec<_> = (0..weights.len() as u64).map(|at| update(7, 9, seed ^ at)).collect();
            let tasks: Vec<Vec<f32>> = updates.iter().map(|u| u.to_dense(Some(&base)).unwrap().data).collect();
            let expected = ties(&tasks, &weights, density.min(1.0), count, weighted, divide);
            let pipeline = method("ties", json!({
                "density": density,
                "by": if count { "count" } else { "mass" },
                "votes": if weighted { "weighted" } else { "plain" },
                "divide": divide,
            }));
            let found = merged(&pipeline, &updates, &weights, &base).unwrap();
            close(&found.to_dense(None).unwrap().data, &expected, 1e-6);
        }
    }

    #[test]
    fn draws_are_decided_as_asked() {
        let updates = [1.0, -1.0].map(|c| update(3, 3, 1).scaled(c));
        let base = [1.0; 9];
        let magnitudes: Vec<f32> = updates[0]
            .to_dense(Some(&base))
            .unwrap()
            .data
            .iter()
            .map(|x| x.abs())
            .collect();
        let merge = |draw| {
            let pipeline = method("ties", json!({"density": 1, "draw": draw}));
            merged(&pipeline, &updates, &[1.0, 1.0], &base)
                .unwrap()
                .to_dense(None)
                .unwrap()
                .data
        };
        assert_eq!(merge("positive"), magnitudes);
        assert_eq!(merge("neither"), [0.0; 9]);
    }
}
