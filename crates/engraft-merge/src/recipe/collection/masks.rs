//! One merge, and which entries of it serve which adapter.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Collected, Writing};
use crate::error::{Error, Result};
use crate::methods::{MaskCounts, MaskWriter, TaskMasks};
use crate::recipe::{Form, Missing, Output, Way};
use crate::update::Update;

/// Name of the file with the masks.
pub const MASK_FILE: &str = "masks.safetensors";
/// Directory of the merge.
pub(super) const MERGED: &str = "merged";
/// Directory of what the consensus keeps of it.
pub(super) const CONSENSUS: &str = "consensus";

/// Options of [task masks](TaskMasks).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TaskMasking {
    /// How much larger than an entry of a task the rest of the merge may be.
    pub lambda: f64,
    /// The merge that is masked.
    pub of: Of,
    /// Write the merge with the entries alone that at least so many masks keep, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub votes: Option<usize>,
    /// Write the masked merge of every task, too.
    pub reconstruct: bool,
}

/// The merge that is masked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Of {
    /// A method with its defaults.
    Method(String),
    /// A method with options.
    #[serde(rename_all = "kebab-case")]
    With {
        /// Its name.
        method: String,
        /// Its options.
        #[serde(default)]
        options: Map<String, Value>,
    },
}

impl Default for TaskMasking {
    fn default() -> Self {
        Self {
            lambda: 0.4,
            of: Of::Method("linear".to_owned()),
            votes: None,
            reconstruct: false,
        }
    }
}

impl TaskMasking {
    pub(super) fn check(&self, adapters: usize) -> Result<()> {
        if !(self.lambda >= 0.0 && self.lambda.is_finite()) {
            return Err(Error::input(format!(
                "`lambda` is {}, expected a number from 0, such as 0.4",
                self.lambda
            )));
        }
        match self.votes {
            Some(votes) if !(1..=adapters).contains(&votes) => Err(Error::input(format!(
                "`votes` is {votes}, expected from 1 to the number of adapters, {adapters}"
            ))),
            _ => self.way().map(drop),
        }
    }

    pub(super) fn way(&self) -> Result<Way> {
        match &self.of {
            Of::Method(method) => Way::named(method, &Map::new()),
            Of::With { method, options } => Way::named(method, options),
        }
    }

    /// The merge, its masks, and what they make of it.
    pub(super) fn write(&self, writing: &mut Writing<'_, '_>) -> Result<()> {
        let merger = writing.merger;
        let (recipe, sources) = (writing.recipe, &merger.sources);
        let names = sources.iter().map(|source| source.name().to_owned());
        let names: Vec<String> = names.collect();
        // What is masked has no low rank.
        let whole = Output {
            form: Form::Delta,
            rank: None,
            energy: None,
            ..recipe.output.clone()
        };
        let all: Vec<_> = sources.iter().collect();
        let mut merged = writing.begin(MERGED, &recipe.output, all[0])?;
        let consensus = self.votes.map(|votes| {
            let writer = writing.begin(CONSENSUS, &whole, all[0]);
            writer.map(|writer| (votes, writer))
        });
        let mut consensus = consensus.transpose()?;
        let mut tasks = match self.reconstruct {
            true => writing.begin_each(&whole)?,
            false => Vec::new(),
        };
        let path = writing.out.join(MASK_FILE);
        let mut file = MaskWriter::create(&path, &names, self.lambda)?;
        let mut counts = MaskCounts::new(names.len());
        for module in merger.modules.keys() {
            let tau = merger.update(module)?;
            let brought = merger.bring(module, Missing::Zero)?;
            let weight = match &brought.weight {
                Some(weight) => Some(weight.clone()),
                None => merger.weight(module, &tau)?,
            };
            let own: Vec<&Update> = brought.updates.iter().map(|(_, update)| update).collect();
            let weight = weight.as_deref();
            let named = |error: Error| Error::input(format!("module `{module}`: {error}"));
            let masks = TaskMasks::new(&tau, &own, self.lambda, weight).map_err(named)?;
            for (task, writer) in tasks.iter_mut().enumerate() {
                writer.push(module, &masks.reconstruct(task, &tau, weight)?)?;
            }
            if let Some((votes, writer)) = &mut consensus {
                let kept = masks.consensus(*votes).apply(&tau, weight)?;
                writer.push(module, &kept)?;
            }
            counts.add(&masks);
            let (rows, columns) = tau.known_shape()?;
            file.push(module, [rows, columns], &masks)?;
            merged.push(module, &tau)?;
            (writing.step)(module);
        }
        writing.outcome.bytes = file.bytes();
        file.finish()?;
        let saved = merger.saved(sources, recipe.saved)?;
        writing.end(MERGED, merged, &saved, &all)?;
        if let Some((_, writer)) = consensus {
            writing.end(CONSENSUS, writer, &saved, &all)?;
        }
        writing.end_each(tasks)?;
        writing.outcome.form = "task masks".to_owned();
        writing.outcome.collected = Some(Collected::TaskMasks {
            tasks: names,
            statistics: counts.statistics(),
        });
        Ok(())
    }
}
