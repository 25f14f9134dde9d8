//! Merging as data: what is done to each task, how they become one, what is done to that.
//!
//! ```text
//! prepare (sparsify | align)*  ->  consensus  ->  (rescale)*
//! ```
//!
//! TIES, DARE and their variants are rows of one [table](methods), written as the recipes of users are. The
//! form of what comes out ([`crate::factorise`]) is the business of whoever writes it.
//!
//! As long as a merge is a linear combination of updates as they are, it stays in their own form; else it
//! is computed strip by strip of rows, and no task's update is ever dense as a whole.

mod align;
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

pub use align::{Align, align};
pub use consensus::{
    By, Consensus, Divide, Draw, Elected, Fisher, IsoCts, Magnitudes, RegMean, Slerp, Tsv, Votes,
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
use prepare::Tasks;
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

/// Which tensor of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Weight,
    Bias,
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
    /// with the same coefficients; else as tensors of their own, `<module>.bias`. Merges of matrices, and
    /// those that want statistics which there are not for biases, average them.
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
        if let Some(coefficients) = fixed.filter(|_| keeps_all && !self.is_isotropic()) {
            // Neither a base nor a shape is needed to add updates up.
            let merged = combination(&terms(coefficients))?;
            return self.rescaled(Update { shape, ..merged }, module, tasks);
        }
        let mut merged = Update {
            shape,
            ..Update::default()
        };
        if task::change_weight(tasks) {
            let prepared = Tasks::new(self.steps(Of::Weight), module, tasks, survey)?;
            let coefficients = self.consensus.coefficients(&prepared.tasks)?;
            if let Some(coefficients) = coefficients.filter(|_| keeps_all) {
                merged = combination(&terms(coefficients))?;
                merged.shape = shape;
                if !self.is_isotropic() {
                    return self.rescaled(merged, module, tasks);
                }
                (merged.bias, merged.bias_scale) = (None, None);
            } else {
                merged = self.consensus.merge(&prepared.tasks)?;
                for basis in prepared.bases.iter().rev() {
                    merged = align::restored(basis, &merged)?;
                }
            }
            merged = self.rescaled(merged, module, tasks)?;
        }
        if let Some(biases) = Biases::new(module, tasks)? {
            merged.bias = Some(self.merged_bias(&biases, tasks, survey)?);
        }
        Ok(merged)
    }

    /// The stages for a vector, of those that are for vectors.
    fn merged_bias(&self, biases: &Biases, tasks: &[Task], survey: &Survey) -> Result<Vec<f64>> {
        let tasks = biases.tasks(tasks);
        let fisher = tasks.iter().all(|task| task.fisher.is_some());
        let consensus = match (&self.consensus, self.is_isotropic()) {
            (Consensus::Sum, true) => Consensus::Mean,
            (consensus, _) => consensus.of_bias(fisher),
        };
        let module = &biases.module;
        let prepared = Tasks::new(self.steps(Of::Bias), module, &tasks, survey)?;
        let vectors = Self {
            rescale: self
                .rescale
                .iter()
                .filter(|step| **step != Rescale::IsoC)
                .cloned()
                .collect(),
            ..Self::default()
        };
        let merged = vectors.rescaled(consensus.merge(&prepared.tasks)?, module, &tasks)?;
        Ok(merged
            .to_dense(None)?
            .data
            .into_iter()
            .map(f64::from)
            .collect())
    }

    /// The steps for a tensor, with their index: a vector has no basis.
    fn steps(&self, of: Of) -> impl Iterator<Item = (usize, &Prepare)> {
        let steps = self.prepare.iter().enumerate();
        steps.filter(move |(_, step)| of == Of::Weight || !matches!(step, Prepare::Align(_)))
    }

    fn is_isotropic(&self) -> bool {
        self.rescale.contains(&Rescale::IsoC)
    }

    fn rescaled(&self, merged: Update, module: &str, tasks: &[Task]) -> Result<Update> {
        let mut steps = self.rescale.iter();
        steps.try_fold(merged, |merged, step| step.apply(merged, module, tasks))
    }
}
