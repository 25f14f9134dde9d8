//! How the updates of a module become one.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Recipe, Source};
use crate::arithmetic::{Form, Operand};
use crate::compatible;
use crate::error::{Error, Result};
use crate::methods::{Copa, copa};
use crate::pipeline::{Pipeline, Survey, Task};
use crate::update::{Factors, Update};

/// How the updates of a module become one.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    /// By steps on the updates.
    Pipeline(Pipeline),
    /// By the factors of LoRAs, one from each (CoPA-Merging).
    Copa(Copa),
    /// Factor by factor (Composing PEM).
    FactorWise,
    /// As PEFT does.
    Compatible(compatible::Options),
}

impl Way {
    /// That of a recipe.
    ///
    /// # Errors
    /// An unknown method or option, with the nearest known; options outside their range.
    pub fn of(recipe: &Recipe) -> Result<Self> {
        if let Some(options) = recipe.compatible {
            return Ok(Self::Compatible(options));
        }
        if let Some(pipeline) = &recipe.pipeline {
            pipeline.check()?;
            return Ok(Self::Pipeline(pipeline.clone()));
        }
        match recipe.method.as_deref().unwrap_or("linear") {
            "copa" => options(&recipe.options).map(Self::Copa),
            "factor-wise" if recipe.options.is_empty() => Ok(Self::FactorWise),
            "factor-wise" => Err(Error::input("method `factor-wise` has no options")),
            name => Pipeline::named(name, &recipe.options).map(Self::Pipeline),
        }
    }

    /// The update of a module; `sources` are those of the tasks.
    ///
    /// # Errors
    /// As [`Pipeline::merge`]; updates that are not of low rank where factors are merged.
    pub fn merge(&self, module: &str, tasks: &[Task<'_>], survey: &Survey) -> Result<Update> {
        match self {
            Self::Pipeline(pipeline) => pipeline.merge(module, tasks, survey),
            Self::Copa(options) => {
                let factors = tasks.iter().map(|task| factors(module, task));
                let factors = factors.collect::<Result<Vec<_>>>()?;
                let weighted = factors
                    .iter()
                    .zip(tasks)
                    .map(|(f, task)| f.scaled(task.weight));
                let weighted: Vec<Factors> = weighted.collect();
                let merged = copa(&weighted.iter().collect::<Vec<_>>(), options)
                    .map_err(|error| Error::input(format!("module `{module}`: {error}")))?;
                Ok(Update::low_rank(merged))
            }
            Self::FactorWise => {
                let one = |task: &Task<'_>| {
                    let modules = [(module.to_owned(), task.update.clone())];
                    Operand::new(task.adapter, modules.into())
                };
                let operands: Vec<Operand> = tasks.iter().map(one).collect();
                let weights = tasks.iter().map(|task| task.weight);
                let terms: Vec<_> = weights.zip(&operands).collect();
                let mut sum = Operand::combination(Form::FactorWise, &terms)?;
                Ok(sum.modules.remove(module).expect("of this module"))
            }
            Self::Compatible(_) => Err(Error::input("PEFT's combination is not of single modules")),
        }
    }
}

fn factors<'a>(module: &str, task: &Task<'a>) -> Result<&'a Factors> {
    let factors = task.update.low_rank.as_ref();
    factors.filter(|_| task.update.is_low_rank()).ok_or_else(|| {
        let reason = "`copa` prunes the factors of LoRAs, and its update is none: `ties` and `dare-linear` prune updates";
        Error::module(task.adapter, module, reason)
    })
}

fn options<T: DeserializeOwned>(options: &Map<String, Value>) -> Result<T> {
    let read = serde_json::from_value(Value::Object(options.clone()));
    read.map_err(|error| Error::input(super::with_nearest(&error.to_string())))
}

/// The names of adapters, for a message.
pub(super) fn names(sources: &[Source]) -> String {
    let names = sources.iter().map(|source| format!("`{}`", source.name()));
    names.collect::<Vec<_>>().join(", ")
}
