//! How the updates of a module become one.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Collection, Recipe, Source};
use crate::arithmetic::{Form, Operand};
use crate::compatible;
use crate::error::{Error, Result, nearest};
use crate::methods::{Copa, copa};
use crate::pipeline::methods::methods;
use crate::pipeline::{Consensus, Pipeline, Survey, Task};
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
        if let Some(collection) = Collection::of(recipe)? {
            return collection.way();
        }
        let name = recipe.method.as_deref().unwrap_or("linear");
        Self::named(name, &recipe.options).map_err(|error| match known(name) {
            true => error,
            false => unknown(name, &Collection::METHODS),
        })
    }

    /// That of a method which makes one adapter.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn named(name: &str, given: &Map<String, Value>) -> Result<Self> {
        match &name.replace('_', "-")[..] {
            "copa" => options(given).map(Self::Copa),
            "factor-wise" if given.is_empty() => Ok(Self::FactorWise),
            "factor-wise" => Err(Error::input("method `factor-wise` has no options")),
            _ if known(name) => Pipeline::named(name, given).map(Self::Pipeline),
            _ => Err(unknown(name, &[])),
        }
    }

    /// The method that wants statistics of every task, if it does.
    #[must_use]
    pub fn wants_statistics(&self) -> Option<&'static str> {
        match self {
            Self::Pipeline(pipeline) => match pipeline.consensus {
                Consensus::Fisher(_) => Some("fisher"),
                Consensus::RegMean(_) => Some("regmean"),
                _ => None,
            },
            _ => None,
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

/// Methods that are no pipelines.
const OTHERS: [&str; 2] = ["copa", "factor-wise"];

fn known(name: &str) -> bool {
    let name = &name.replace('_', "-")[..];
    methods().contains_key(name) || OTHERS.contains(&name)
}

/// A method that is not there, with the nearest; `besides` are others that would do.
fn unknown(name: &str, besides: &[&'static str]) -> Error {
    let known = methods().keys().map(String::as_str);
    let known: BTreeSet<&str> = known.chain(OTHERS).chain(besides.iter().copied()).collect();
    let near = match nearest(name, known.iter().copied()).first() {
        Some(near) => format!("; the nearest is `{near}`"),
        None => String::new(),
    };
    let all: Vec<&str> = known.into_iter().collect();
    Error::input(format!(
        "no method `{name}`{near}; there are {}",
        all.join(", ")
    ))
}

pub(super) fn options<T: DeserializeOwned>(options: &Map<String, Value>) -> Result<T> {
    let read = serde_json::from_value(Value::Object(options.clone()));
    read.map_err(|error| Error::input(super::with_nearest(&error.to_string())))
}

/// The names of adapters, for a message.
pub(super) fn names(sources: &[Source]) -> String {
    let names = sources.iter().map(|source| format!("`{}`", source.name()));
    names.collect::<Vec<_>>().join(", ")
}
