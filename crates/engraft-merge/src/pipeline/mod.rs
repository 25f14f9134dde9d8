//! Merging as data: what is done to each task, how they become one, what is done to that.
//!
//! ```text
//! prepare (sparsify)*  ->  consensus  ->  (rescale)*
//! ```
//!
//! TIES, DARE and their variants are rows of one [table](methods), written as the recipes of users are.
//! As long as a merge is a linear combination of updates as they are, it stays in their own form; else it
//! is computed strip by strip of rows, and no task's update is ever dense as a whole.

mod consensus;
pub mod methods;
mod prepare;
mod rescale;
mod rows;
mod rule;
mod select;
mod sparsify;
mod survey;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use consensus::{
    By, Consensus, Divide, Draw, Elected, Fisher, Magnitudes, RegMean, Slerp, Votes,
};
pub use prepare::Prepare;
pub use rescale::{Factor, Rescale};
pub use rows::{OnBase, Rows, dot};
pub use sparsify::{Breadcrumbs, Della, Magnitude, Random, Scope};
pub use survey::Survey;
pub use task::Task;

use crate::error::Result;
use crate::update::Update;
use consensus::combination;
use prepare::Prepared;
use task::Biases;

/// A way to merge.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pipeline {
    /// Steps for the update of each task, in this order.
    #[serde(default)]
    pub prepare: Vec<Prepare>,
    /// How they become one.
    #[serde(default)]
    pub consensus: Consensus,
    /// Steps for what they became, in this order.
    #[serde(default)]
    pub rescale: Vec<Rescale>,
}

impl Pipeline {
    /// Whether its options make sense.
    ///
    /// # Errors
    /// Densities, factors and the like outside their range.
    pub fn check(&self) -> Result<()> {
        self.prepare.iter().try_for_each(Prepare::check)?;
        self.consensus.check()?;
        self.rescale.iter().try_for_each(Rescale::check)
    }

    /// Merges the updates of one module. A task that lacks the module is left out, or is
    /// [`Update::zero`] where its lack should count in a mean. `survey` is the
    /// [survey](Self::survey) of all modules, `Survey::default()` if none is needed.
    ///
    /// Biases take part as part of their module where the merge is a combination of the updates as they are,
    /// with the same coefficients; else as tensors of their own, `<module>.bias`. Where a merge wants
    /// statistics that there are not for biases, these are averaged.
    ///
    /// # Errors
    /// Options outside their range, weights or updates that are not finite, updates of different shapes,
    /// bases or statistics that are missing; the message says which adapter and module.
    pub fn merge(&self, module: &str, tasks: &[Task], survey: &Survey) -> Result<Update> {
        self.check()?;
        task::check(module, tasks)?;
        let shape = task::common_shape(module, tasks)?;
        let terms = |coefficients: Vec<f64>| {
            let updates = tasks.iter().map(|task| task.update);
            coefficients.into_iter().zip(updates).collect::<Vec<_>>()
        };
        let keeps_all = self.prepare.iter().all(Prepare::keeps_all);
        let weights: Vec<f64> = tasks.iter().map(|task| task.weight).collect();
        let fixed = self.consensus.fixed_coefficients(&weights)?;
        if let Some(coefficients) = fixed.filter(|_| keeps_all) {
            // Neither a base nor a shape is needed to add updates up.
            let merged = combination(&terms(coefficients))?;
            return self.rescaled(Update { shape, ..merged }, module, tasks);
        }
        let mut merged = Update {
            shape,
            ..Update::default()
        };
        if task::change_weight(tasks) {
            let prepared = Prepared::all(&self.prepare, module, tasks, survey)?;
            if let Some(coefficients) = self
                .consensus
                .coefficients(&prepared)?
                .filter(|_| keeps_all)
            {
                let merged = combination(&terms(coefficients))?;
                return self.rescaled(Update { shape, ..merged }, module, tasks);
            }
            merged = self.rescaled(self.consensus.merge(&prepared)?, module, tasks)?;
        }
        if let Some(biases) = Biases::new(module, tasks)? {
            let tasks = biases.tasks(tasks);
            let fisher = tasks.iter().all(|task| task.fisher.is_some());
            let consensus = self.consensus.of_bias(fisher);
            let prepared = Prepared::all(&self.prepare, &biases.module, &tasks, survey)?;
            let bias = self.rescaled(consensus.merge(&prepared)?, &biases.module, &tasks)?;
            let numbers = bias.to_dense(None)?.data.into_iter();
            merged.bias = Some(numbers.map(f64::from).collect());
        }
        Ok(merged)
    }

    fn rescaled(&self, merged: Update, module: &str, tasks: &[Task]) -> Result<Update> {
        let mut steps = self.rescale.iter();
        steps.try_fold(merged, |merged, step| step.apply(merged, module, tasks))
    }
}
