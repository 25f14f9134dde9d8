//! A merge as a file: which adapters, how, and what becomes of them.
//!
//! ```toml
//! base = "llama"                 # a checkpoint: where updates depend on it, or for a folded checkpoint
//! method = "ties"                # a row of the table; or [pipeline] with its steps
//! options = { density = 0.3 }
//!
//! [[adapter]]
//! path = "adapters/law"
//! weight = 0.7                   # or `weights` for all: { ema = 0.9 }, { samples = [100, 300] }
//!
//! [[adapter]]
//! path = "adapters/code"
//!
//! [output]
//! form = "lora"
//! rank = 16
//! ```

mod checks;
mod collection;
mod inputs;
mod merger;
mod outcome;
mod output;
mod search;
mod way;
mod weights;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use collection::{
    Collected, Collection, MASK_FILE, Mbc, Of, RMM_FILE, Reversible, TaskMasking,
};
pub use inputs::Source;
pub use merger::Merger;
pub use outcome::{ModuleOutcome, Outcome, Part};
pub use output::{Form, Output};
pub use search::Searching;
pub use way::Way;
pub use weights::Weights;

use crate::compatible;
use crate::error::{Error, Result, nearest};
use crate::pipeline::Pipeline;

/// A merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// The checkpoint of the model that the adapters are for: its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// A method of the [table](crate::pipeline::methods), `copa`, or `factor-wise` (the paper's form of
    /// "Composing PEM"), or one that makes a [`Collection`]; `linear` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Options of the method.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// The steps themselves, instead of a method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
    /// PEFT's `add_weighted_adapter` with these arguments, instead of a method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatible: Option<compatible::Options>,
    /// What the adapters' weights are.
    #[serde(default)]
    pub weights: Weights,
    /// Seed of what PEFT leaves to chance.
    #[serde(default)]
    pub seed: u64,
    /// What a module counts as in an adapter that lacks it.
    #[serde(default)]
    pub missing: Missing,
    /// What becomes of parameters that adapters have whole.
    #[serde(default)]
    pub saved: Saved,
    /// The adapters.
    #[serde(rename = "adapter")]
    pub adapters: Vec<Input>,
    /// How the adapters' weights are searched for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Searching>,
    /// What is written.
    #[serde(default)]
    pub output: Output,
}

/// An adapter of a merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    /// Its directory.
    pub path: PathBuf,
    /// How tables and messages call it; its directory's name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its weight.
    #[serde(default = "one")]
    pub weight: f64,
    /// The adapter as it was before training, where its init took a part of the base (PiSSA): what it
    /// changes is the difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Statistics of a calibration pass, for Fisher merging and RegMean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<PathBuf>,
}

fn one() -> f64 {
    1.0
}

/// What a module counts as in an adapter that lacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// As a mistake.
    #[default]
    Refuse,
    /// As no change.
    Zero,
    /// As if the adapter were not there.
    Skip,
}

/// What becomes of parameters that adapters have whole: heads, biases, embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// One that a single adapter has is kept; one that several have is refused.
    #[default]
    Keep,
    /// The weighted mean of those that have it.
    Average,
    /// They are left out.
    Drop,
}

impl Recipe {
    /// Reads a recipe. Paths in it are relative to its directory.
    ///
    /// # Errors
    /// A file that is missing or malformed: unknown keys with the nearest known, values out of range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::file(path, format!("cannot be read: {error}")))?;
        let mut recipe = Self::parse(&text).map_err(|error| Error::file(path, error))?;
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let place = |path: &mut PathBuf| *path = directory.join(&*path);
        recipe.base.iter_mut().for_each(place);
        if let Some(search) = &mut recipe.search {
            place(&mut search.data);
            search.model.iter_mut().for_each(place);
        }
        for adapter in &mut recipe.adapters {
            place(&mut adapter.path);
            adapter.init.iter_mut().for_each(place);
            adapter.statistics.iter_mut().for_each(place);
        }
        Ok(recipe)
    }

    /// A recipe of text.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|error| {
            let message = error.to_string();
            Error::input(with_nearest(message.trim_end()))
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// No adapters, two of one name, weights that are not finite, two ways to merge at once.
    pub fn check(&self) -> Result<()> {
        if self.adapters.is_empty() {
            return Err(Error::input("no [[adapter]]: name at least one"));
        }
        let ways = [
            ("method", self.method.is_some()),
            ("pipeline", self.pipeline.is_some()),
            ("compatible", self.compatible.is_some()),
        ];
        let given: Vec<&str> = ways
            .iter()
            .filter(|(_, given)| *given)
            .map(|(way, _)| *way)
            .collect();
        if let [one, other, ..] = given[..] {
            let reason = format!("`{one}` and `{other}` are both ways to merge: give one of them");
            return Err(Error::input(reason));
        }
        if !self.options.is_empty() && self.method.is_none() {
            return Err(Error::input(
                "`options` are those of a `method`, and there is none",
            ));
        }
        let names: Vec<String> = self.adapters.iter().map(Input::name).collect();
        for (at, (name, input)) in names.iter().zip(&self.adapters).enumerate() {
            if names[..at].contains(name) {
                let reason = "two adapters have this name: give one another `name`";
                return Err(Error::adapter(name, reason));
            }
            if !input.weight.is_finite() {
                let reason = format!("its weight is {}, expected a finite number", input.weight);
                return Err(Error::adapter(name, reason));
            }
        }
        self.output.check()?;
        self.weights()?;
        if let Some(search) = &self.search {
            search.check(self)?;
        }
        let wants = Way::of(self)?.wants_statistics();
        let lacks = self
            .adapters
            .iter()
            .find(|input| input.statistics.is_none());
        match (wants, lacks) {
            (Some(method), Some(input)) => {
                let reason = format!(
                    "`{method}` weighs updates by statistics of each task, and it has no `statistics`: \
                     `cargo xtask calibrate --model MODEL --adapter {} --data FILE --out STATS.safetensors` writes them",
                    input.path.display()
                );
                Err(Error::adapter(&input.name(), reason))
            }
            _ => Ok(()),
        }
    }
}

impl Input {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> String {
        let own = || self.path.file_name().unwrap_or(self.path.as_os_str());
        self.name
            .clone()
            .unwrap_or_else(|| own().to_string_lossy().into_owned())
    }
}

/// An unknown key with the nearest of those that the message lists.
fn with_nearest(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.contains("unknown"), quoted.split_first()) {
        (true, Some((found, known))) => match nearest(found, known.iter().copied()).first() {
            Some(near) => format!("{message}\nnearest: `{near}`"),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}
