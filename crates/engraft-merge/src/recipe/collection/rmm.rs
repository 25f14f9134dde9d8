//! A reversible merge: the basis of all adapters, and each as it comes back.

use std::collections::BTreeMap;

use engraft_linalg::Matrix;
use serde::{Deserialize, Serialize};

use super::{Collected, Writing};
use crate::error::{Error, Result};
use crate::methods::{Rmm, RmmWriter, Vectors};
use crate::recipe::{Form, Missing, Output};
use crate::update::{Factors, Update};

/// Name of the file with the bases.
pub const RMM_FILE: &str = "rmm.safetensors";

/// Options of a [reversible merge](Rmm). The adapters' weights do not count: each comes back as it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Reversible {
    /// Vectors of each basis; exact where it is the number of adapters.
    pub size: usize,
    /// What the vectors are.
    pub vectors: Vectors,
}

impl Default for Reversible {
    fn default() -> Self {
        Self {
            size: 2,
            vectors: Vectors::Positions,
        }
    }
}

impl Reversible {
    pub(super) fn check(&self, output: &Output) -> Result<()> {
        if self.size == 0 {
            return Err(Error::input("`size` is 0, expected at least 1"));
        }
        let form = [Form::Auto, Form::Lora].contains(&output.form);
        match form && output.rank.is_none() && output.energy.is_none() {
            true => Ok(()),
            false => Err(Error::input(
                "every adapter comes back as a LoRA of its factors' rank: leave `form`, `rank` and `energy` out; `size` says how much is kept",
            )),
        }
    }

    /// The bases in a file, and every adapter that comes back from them.
    pub(super) fn write(&self, writing: &mut Writing<'_, '_>) -> Result<()> {
        let merger = writing.merger;
        if merger.sources.iter().any(|source| source.weight() != 1.0) {
            let warning = "`rmm` keeps every adapter as it is: their weights do not count";
            writing.outcome.warnings.push(warning.to_owned());
        }
        let names = merger.sources.iter().map(|source| source.name().to_owned());
        let names: Vec<String> = names.collect();
        let output = Output {
            form: Form::Lora,
            ..writing.recipe.output.clone()
        };
        let output: &Output = &output;
        let mut file = RmmWriter::create(&writing.out.join(RMM_FILE), &names)?;
        let mut writers = writing.begin_each(output)?;
        let (mut numbers, mut of) = (0, 0);
        for module in merger.modules.keys() {
            // What lacks the module is of rank 0 there.
            let brought = merger.bring(module, Missing::Zero)?;
            let factors = brought.updates.iter().map(|(at, update)| {
                factors(update).map_err(|error| Error::module(&names[*at], module, error))
            });
            let factors: Vec<Factors> = factors.collect::<Result<_>>()?;
            let all: Vec<&Factors> = factors.iter().collect();
            let rmm = Rmm::new(&all, self.size, self.vectors)
                .map_err(|error| Error::input(format!("module `{module}`: {error}")))?;
            numbers += rmm.numbers();
            for (task, writer) in writers.iter_mut().enumerate() {
                let factors = &factors[task];
                of += factors.left.as_slice().len() + factors.right.as_slice().len();
                writer.push(module, &Update::low_rank(rmm.revert(task)?))?;
                let norm = factors.dot(factors)?.max(0.0).sqrt();
                writer.lost(module, norm, rmm.errors[task]);
            }
            file.push(module, &rmm)?;
            (writing.step)(module);
        }
        writing.outcome.bytes = 4 * numbers as u64;
        file.finish()?;
        writing.end_each(writers)?;
        let errors = writing.outcome.parts.iter();
        let errors = errors.map(|(name, part)| (name.clone(), part.error()));
        let errors: BTreeMap<String, f64> = errors.collect();
        writing.outcome.form = "reversible merge".to_owned();
        writing.outcome.collected = Some(Collected::Rmm {
            size: self.size,
            vectors: self.vectors,
            numbers,
            of,
            errors,
        });
        Ok(())
    }
}

/// The factors of an update that is nothing else; of rank 0 where it is nothing.
fn factors(update: &Update) -> Result<Factors> {
    if !update.is_low_rank() {
        return Err(Error::input(
            "`rmm` is of the factors of LoRAs, and its update is none: `mbc` and `task-masks` take any",
        ));
    }
    if update.bias.is_some() || update.bias_scale.is_some() {
        return Err(Error::input(
            "it changes the bias, which the bases of `rmm` do not hold: `mbc` and `task-masks` do",
        ));
    }
    let (rows, columns) = update.known_shape()?;
    match &update.low_rank {
        Some(factors) => Ok(factors.clone()),
        None => Factors::new(Matrix::zeros(rows, 0), Matrix::zeros(0, columns)),
    }
}
