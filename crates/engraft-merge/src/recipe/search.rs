//! Weights that are searched for on a few examples (LoraHub, arXiv:2307.13269).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Collection, Merger, Recipe, Way, Weights};
use crate::error::{Error, Result};
use crate::methods::Search;
use crate::pipeline::Consensus;

/// `[search]`: on which examples the weights of the adapters are searched for, and how. What judges them
/// needs a model, so that `cargo xtask merge` runs it: [`Merger::search`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Searching {
    /// The examples.
    pub data: PathBuf,
    /// The model, if it is not the recipe's `base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What is asked of the model, as `cargo xtask adapt --task` has it; what the first adapter says of itself
    /// by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Map<String, Value>>,
    /// How many examples.
    #[serde(default = "examples")]
    pub examples: usize,
    /// Examples at once.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// Most tokens of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Evaluations at most.
    #[serde(default = "budget")]
    pub budget: usize,
    /// Largest magnitude of a weight.
    #[serde(default = "bound")]
    pub bound: f64,
    /// alpha: what the mean magnitude of the weights adds to the loss.
    #[serde(default = "penalty")]
    pub penalty: f64,
    /// Standard deviation of the first candidates.
    #[serde(default = "step")]
    pub step: f64,
    /// Seed of the candidates.
    #[serde(default = "seed")]
    pub seed: u64,
}

fn examples() -> usize {
    16
}

fn batch_size() -> usize {
    16
}

fn budget() -> usize {
    Search::default().budget
}

fn bound() -> f64 {
    Search::default().bound
}

fn penalty() -> f64 {
    Search::default().penalty
}

fn step() -> f64 {
    Search::default().step
}

fn seed() -> u64 {
    Search::default().seed
}

impl Searching {
    /// How it searches.
    #[must_use]
    pub fn search(&self) -> Search {
        Search {
            budget: self.budget,
            bound: self.bound,
            penalty: self.penalty,
            step: self.step,
            seed: self.seed,
        }
    }

    pub(super) fn check(&self, recipe: &Recipe) -> Result<()> {
        if self.examples == 0 || self.batch_size == 0 || self.budget == 0 {
            return Err(Error::input(
                "[search]: `examples`, `batch-size` and `budget` must be at least 1",
            ));
        }
        let own = recipe.adapters.iter().find(|input| input.weight != 1.0);
        if let Some(input) = own {
            let reason = format!(
                "its weight is {}, and [search] finds the weights: leave one of them out",
                input.weight
            );
            return Err(Error::adapter(&input.name(), reason));
        }
        if recipe.weights != Weights::Given {
            return Err(Error::input(
                "`weights` and [search] both set the weights: give one of them",
            ));
        }
        if Collection::of(recipe)?.is_some() {
            return Err(Error::input(
                "[search] finds the weights of one merge, and this method makes several adapters",
            ));
        }
        let any = match Way::of(recipe)? {
            Way::Pipeline(pipeline) => {
                matches!(pipeline.consensus, Consensus::Sum | Consensus::Elected(_))
            }
            Way::Copa(_) | Way::FactorWise => true,
            Way::Compatible(_) => false,
        };
        match any {
            true => Ok(()),
            false => Err(Error::input(
                "[search] tries weights of any sign, from 0 for all: it takes a method of sums, such as `linear`, `factor-wise` or `ties`",
            )),
        }
    }
}

impl Merger {
    /// Searches for the weights with which `loss` of the merge, and a penalty, is least, and sets them.
    ///
    /// # Errors
    /// As [`Search::minimise`].
    pub fn search(
        &mut self,
        search: &Search,
        mut loss: impl FnMut(&Self) -> Result<f64>,
    ) -> Result<()> {
        let found = search.minimise(self.sources.len(), |weights| {
            self.weighted(weights)?;
            loss(self)
        })?;
        self.weighted(&found.best.coefficients)?;
        self.found = Some(found);
        Ok(())
    }
}
