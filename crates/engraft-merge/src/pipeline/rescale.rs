//! Steps that scale what was merged.

use serde::{Deserialize, Serialize};

use super::rows::OnBase;
use super::task::Task;
use crate::error::{Error, Result};
use crate::update::Update;

/// A step after the merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rescale {
    /// Times a number.
    Factor(Factor),
    /// To the mean norm of the tasks' own updates, sum_i |w_i| ‖dW_i‖ / sum_i |w_i|: what disagreement
    /// takes from the length is given back. A merge that vanishes, to rounding, stays.
    NormMatch,
}

/// lambda of task arithmetic (2212.04089) and of TIES-Merging (2306.01708, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Factor {
    /// The number.
    pub lambda: f64,
}

/// Length, relative to the tasks', below which a merge is what rounding leaves of nothing.
const NOTHING: f64 = 1e-6;

impl Rescale {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Factor(Factor { lambda }) if !lambda.is_finite() => Err(Error::input(format!(
                "lambda is {lambda}, expected a finite number"
            ))),
            Self::Factor(_) | Self::NormMatch => Ok(()),
        }
    }

    pub(super) fn apply(&self, merged: Update, module: &str, tasks: &[Task]) -> Result<Update> {
        let factor = match self {
            Self::Factor(Factor { lambda }) => *lambda,
            Self::NormMatch => match factor_to_mean_norm(&merged, module, tasks)? {
                Some(factor) => factor,
                None => return Ok(merged),
            },
        };
        Ok(merged.scaled(factor))
    }
}

fn factor_to_mean_norm(merged: &Update, module: &str, tasks: &[Task]) -> Result<Option<f64>> {
    let (mut norms, mut weights) = (0.0, 0.0);
    for task in tasks {
        let norm = OnBase::new(task.update, task.base).and_then(|rows| rows.norm());
        norms += task.weight.abs() * norm.map_err(|error| task.error(module, error))?;
        weights += task.weight.abs();
    }
    let base = tasks.iter().find_map(|task| task.base);
    let found = OnBase::new(merged, base)?.norm()?;
    let mean = norms / weights;
    Ok((found > NOTHING * mean).then(|| mean / found))
}
