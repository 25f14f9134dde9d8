//! What a merge is written as.

mod adapter;
mod checkpoint;
mod delta;
mod lora;
mod shira;
mod vectors;
mod writer;

use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

pub(super) use writer::AdapterWriter;

use super::{Merger, Outcome, Recipe, Way};
use crate::diagnose::Diagnosis;
use crate::error::{Error, Result};
use crate::factorise::Rank;
use crate::update::Update;

/// `[output]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Output {
    /// The form.
    #[serde(default)]
    pub form: Form,
    /// Rank of a LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Fraction of the squared norm that a LoRA keeps, instead of a rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<f64>,
    /// Precision of an adapter's numbers: `f32`, `f16`, `bf16` or `f64`; the first adapter's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Number>,
}

/// What a merge is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The first of IA3, SHiRA, LoRA and deltas that holds all modules exactly.
    #[default]
    Auto,
    /// PEFT's LoRA: of a rank or an energy, or exact where updates are of low rank.
    Lora,
    /// PEFT's IA3: exact where updates are scalings.
    Ia3,
    /// PEFT's SHiRA: exact where updates are sparse.
    Shira,
    /// Every dW as it is.
    Delta,
    /// The base with all of it folded in.
    Checkpoint,
}

/// A precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Number {
    /// Double.
    F64,
    /// Single.
    F32,
    /// Half.
    F16,
    /// Brain float.
    Bf16,
}

impl From<Number> for Dtype {
    fn from(number: Number) -> Self {
        match number {
            Number::F64 => Self::F64,
            Number::F32 => Self::F32,
            Number::F16 => Self::F16,
            Number::Bf16 => Self::BF16,
        }
    }
}

impl Output {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// A rank and an energy at once, either where no factors are written, or out of range.
    pub fn check(&self) -> Result<()> {
        let factors = [Form::Auto, Form::Lora].contains(&self.form);
        match (self.rank, self.energy) {
            (Some(_), Some(_)) => Err(Error::input(
                "`rank` and `energy` both say how much is kept: give one",
            )),
            (None, None) => Ok(()),
            _ if !factors => Err(Error::input("`rank` and `energy` are of `form = \"lora\"`")),
            (Some(0), _) => Err(Error::input("`rank` is 0, expected at least 1")),
            (_, Some(energy)) if !(energy > 0.0 && energy <= 1.0) => Err(Error::input(format!(
                "`energy` is {energy}, expected a fraction above 0 and at most 1"
            ))),
            _ => Ok(()),
        }
    }

    fn kept(&self) -> Option<Rank> {
        self.rank.map(Rank::Fixed).or(self.energy.map(Rank::Energy))
    }

    /// The form that holds an update exactly, unless one is asked for.
    fn form(&self, update: &Update) -> Form {
        match self.form {
            Form::Auto if self.kept().is_some() || update.is_low_rank() => Form::Lora,
            Form::Auto if vectors::holds(update) => Form::Ia3,
            Form::Auto if shira::holds(update) => Form::Shira,
            Form::Auto => Form::Delta,
            form => form,
        }
    }
}

impl Merger {
    /// Merges all modules into the directory `out`, which is there and empty; with `report` the adapters
    /// are diagnosed too. `step` is told of every module that is done.
    ///
    /// # Errors
    /// As [`update`](Self::update); a form that does not hold a module's update; a disk that is full.
    pub fn write(
        &self,
        recipe: &Recipe,
        out: &Path,
        report: bool,
        step: &mut dyn FnMut(&str),
    ) -> Result<Outcome> {
        if recipe.search.is_some() && self.found.is_none() {
            return Err(Error::input(
                "the weights of [search] are found with a model: `cargo xtask merge` does",
            ));
        }
        let mut outcome = Outcome {
            adapters: self.listed(),
            search: self.found.clone(),
            warnings: self.warnings.clone(),
            ..Outcome::default()
        };
        if let Some(collection) = &self.collection {
            collection.write(self, recipe, out, &mut outcome, step)?;
        } else if let Way::Compatible(options) = &self.way {
            self.compatible(recipe, options, out, &mut outcome)?;
        } else if recipe.output.form == Form::Checkpoint {
            self.checkpoint(recipe, out, &mut outcome, step)?;
        } else {
            self.adapter(recipe, out, &mut outcome, step)?;
        }
        if report {
            let names = self.sources.iter().map(|source| source.name().to_owned());
            let mut diagnosis = Diagnosis::new(names.collect());
            let mut modules = self.modules.keys();
            modules.try_for_each(|module| self.diagnose(module, &mut diagnosis))?;
            outcome.diagnosis = Some(diagnosis);
        }
        Ok(outcome)
    }

    fn listed(&self) -> Vec<(String, String, f64)> {
        let each = self.sources.iter().map(|source| {
            let name = source.adapter().type_name().to_owned();
            (source.name().to_owned(), name, source.weight())
        });
        each.collect()
    }
}
