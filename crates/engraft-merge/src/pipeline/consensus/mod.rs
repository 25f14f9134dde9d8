//! How the updates of several tasks become one.

mod average;
mod elect;
mod interpolate;
mod regmean;

use serde::{Deserialize, Serialize};

pub use average::Fisher;
pub use elect::{By, Divide, Draw, Elected, Votes};
pub use interpolate::{Magnitudes, Slerp};
pub use regmean::RegMean;

use super::prepare::Prepared;
use super::rows::{Rows, by_place};
use crate::error::{Error, Result};
use crate::update::{Dense, Sparse, Update};

/// The merge of the tasks of one module; w_i are their weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consensus {
    /// sum_i w_i dW_i (task arithmetic, 2212.04089).
    #[default]
    Sum,
    /// sum_i w_i dW_i / sum_i w_i.
    Mean,
    /// The sign of each entry is elected, and only entries that agree count (TIES, 2306.01708).
    Elected(Elected),
    /// Along the arc between two updates.
    Slerp(Slerp),
    /// t mean_i dW_i: as near to the base as the angles between the tasks say (2403.19522).
    ModelStock,
    /// The mean weighted by each task's Fisher information, place by place (2111.09832).
    Fisher(Fisher),
    /// The update whose outputs are nearest to those of all tasks (2212.09849).
    #[serde(rename = "regmean")]
    RegMean(RegMean),
}

impl Consensus {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Slerp(slerp) => slerp.check(),
            Self::Fisher(fisher) => fisher.check(),
            Self::RegMean(regmean) => regmean.check(),
            Self::Sum | Self::Mean | Self::Elected(_) | Self::ModelStock => Ok(()),
        }
    }

    /// What it is for a bias: that of the statistics which there are for biases.
    pub(super) fn of_bias(&self, fisher: bool) -> Self {
        match self {
            Self::RegMean(_) => Self::Mean,
            Self::Fisher(_) if !fisher => Self::Mean,
            same => same.clone(),
        }
    }

    /// c_i where the merge is sum_i c_i dW_i whatever the updates.
    pub(super) fn fixed_coefficients(&self, weights: &[f64]) -> Result<Option<Vec<f64>>> {
        match self {
            Self::Sum => Ok(Some(weights.to_vec())),
            Self::Mean => average::shares(weights).map(Some),
            _ => Ok(None),
        }
    }

    /// c_i where the merge is sum_i c_i dW_i for numbers that follow from the updates.
    pub(super) fn coefficients(&self, tasks: &[Prepared]) -> Result<Option<Vec<f64>>> {
        match self {
            Self::Slerp(slerp) => slerp.coefficients(tasks).map(Some),
            Self::ModelStock => interpolate::model_stock(tasks).map(Some),
            _ => self.fixed_coefficients(&weights(tasks)),
        }
    }

    /// The merge of the weights, place by place where it is not a combination of updates kept as they are.
    pub(super) fn merge(&self, tasks: &[Prepared]) -> Result<Update> {
        if let Some(coefficients) = self.coefficients(tasks)? {
            let combined = by_place(&rows(tasks), |x| {
                let terms = x.iter().zip(&coefficients);
                terms.map(|(x, c)| c * f64::from(*x)).sum()
            });
            return combined.map(compact);
        }
        match self {
            Self::Elected(elected) => elected.merge(tasks).map(compact),
            Self::Fisher(fisher) => fisher.merge(tasks).map(compact),
            Self::RegMean(regmean) => regmean.merge(tasks),
            Self::Sum | Self::Mean | Self::Slerp(_) | Self::ModelStock => {
                Err(Error::input("a combination without coefficients"))
            }
        }
    }
}

/// sum_i c_i dW_i in the form that the updates have; tasks that do not count add no rank.
pub(super) fn combination(terms: &[(f64, &Update)]) -> Result<Update> {
    let mut count = terms.iter().filter(|(c, _)| *c != 0.0).peekable();
    match count.peek() {
        Some(_) => Update::combination(count.map(|(c, update)| (*c, *update))),
        None => Ok(Update {
            shape: terms
                .first()
                .map_or([None, None], |(_, update)| update.shape),
            ..Update::default()
        }),
    }
}

fn weights(tasks: &[Prepared]) -> Vec<f64> {
    tasks.iter().map(|task| task.task.weight).collect()
}

fn rows<'a>(tasks: &'a [Prepared]) -> Vec<&'a dyn Rows> {
    tasks.iter().map(|task| task as &dyn Rows).collect()
}

/// Weights that divide: none negative, some positive.
fn check_shares(tasks: &[Prepared], method: &str) -> Result<()> {
    if let Some(task) = tasks.iter().find(|task| task.task.weight < 0.0) {
        let weight = task.task.weight;
        return Err(task.error(format!(
            "its weight is {weight}; {method} takes shares, none negative: to subtract an adapter, use `sum`"
        )));
    }
    match tasks.iter().any(|task| task.task.weight > 0.0) {
        true => Ok(()),
        false => Err(Error::input(format!(
            "all weights are 0, and {method} takes shares of their sum"
        ))),
    }
}

/// As sparse as it pays: a place and a value take three times the room of a value.
fn compact(dense: Dense) -> Update {
    let nonzero = dense.data.iter().filter(|x| **x != 0.0).count();
    match nonzero <= dense.data.len() / 4 {
        true => Update::sparse(dense.rows, dense.columns, Sparse::of_dense(&dense.data)),
        false => Update::dense(dense),
    }
}
