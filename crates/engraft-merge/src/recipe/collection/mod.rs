//! Merges that make several adapters that belong together, each in a directory of its own.
//!
//! All go module by module; only the embedding of [`Mbc`] holds the parameters of all adapters at once.

mod masks;
mod mbc;
mod rmm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use masks::{MASK_FILE, Of, TaskMasking};
pub use mbc::Mbc;
pub use rmm::{RMM_FILE, Reversible};

use super::output::AdapterWriter;
use super::{Form, Merger, Outcome, Output, Part, Recipe, Source, Way, way};
use crate::error::{Error, Result};
use crate::file::HostTensor;
use crate::methods::{MaskStatistics, Vectors};
use crate::pipeline::{Consensus, Pipeline};

/// A merge that makes several adapters.
#[derive(Debug, Clone, PartialEq)]
pub enum Collection {
    /// A compact basis of all, and every adapter as it comes back from it.
    Rmm(Reversible),
    /// The means of adapters that are alike.
    Mbc(Mbc),
    /// One merge, and which entries of it serve which adapter.
    TaskMasks(TaskMasking),
}

/// What a collection knows besides its adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Collected {
    /// Of a reversible merge.
    #[serde(rename_all = "kebab-case")]
    Rmm {
        /// Vectors of each basis at most.
        size: usize,
        /// What they are.
        vectors: Vectors,
        /// Numbers that the bases and coefficients have.
        numbers: usize,
        /// Numbers that the factors of all adapters have.
        of: usize,
        /// |dW - what comes back| / |dW| of each adapter, over all modules.
        errors: BTreeMap<String, f64>,
    },
    /// Of clusters.
    #[serde(rename_all = "kebab-case")]
    Mbc {
        /// The cluster of each adapter.
        assignment: BTreeMap<String, usize>,
        /// Sum of the squared distances from the centres.
        inertia: f64,
    },
    /// Of task masks.
    #[serde(rename_all = "kebab-case")]
    TaskMasks {
        /// The adapters, in the order of the numbers.
        tasks: Vec<String>,
        /// What the masks have in common, over all modules.
        statistics: MaskStatistics,
    },
}

impl Collection {
    /// Names of the methods.
    pub const METHODS: [&'static str; 3] = ["rmm", "mbc", "task-masks"];

    /// That of a recipe, if it makes one.
    ///
    /// # Errors
    /// Unknown options, options outside their range, an output that it does not have, names of adapters
    /// that make no directories.
    pub fn of(recipe: &Recipe) -> Result<Option<Self>> {
        let Some(method) = &recipe.method else {
            return Ok(None);
        };
        let collection = match &method.replace('_', "-")[..] {
            "rmm" => way::options(&recipe.options).map(Self::Rmm),
            "mbc" => way::options(&recipe.options).map(Self::Mbc),
            "task-masks" => way::options(&recipe.options).map(Self::TaskMasks),
            _ => return Ok(None),
        };
        let named = |error: Error| Error::input(format!("method `{method}`: {error}"));
        let collection = collection.map_err(named)?;
        collection.check(recipe).map_err(named)?;
        Ok(Some(collection))
    }

    fn check(&self, recipe: &Recipe) -> Result<()> {
        if recipe.output.form == Form::Checkpoint {
            return Err(Error::input(
                "it makes several adapters, and `form = \"checkpoint\"` folds one: merge to adapters, then fold the one that you want",
            ));
        }
        let count = recipe.adapters.len();
        let taken = match self {
            Self::Rmm(options) => {
                options.check(&recipe.output)?;
                vec![RMM_FILE]
            }
            Self::Mbc(options) => return options.check(count),
            Self::TaskMasks(options) => {
                options.check(count)?;
                vec![masks::MERGED, masks::CONSENSUS, MASK_FILE]
            }
        };
        for name in recipe.adapters.iter().map(super::Input::name) {
            let path = Path::new(&name);
            let plain = path
                .file_name()
                .is_some_and(|file| file == path.as_os_str());
            if !plain || taken.contains(&&name[..]) {
                let reason = format!(
                    "becomes the directory `{name}` of the output, where that is {}: give it another `name`",
                    if plain {
                        "taken"
                    } else {
                        "no name of a directory"
                    }
                );
                return Err(Error::adapter(&name, reason));
            }
        }
        Ok(())
    }

    /// How the updates of a module become one, where they do.
    ///
    /// # Errors
    /// As [`Way::of`].
    pub(super) fn way(&self) -> Result<Way> {
        match self {
            Self::Rmm(_) | Self::Mbc(_) => Ok(Way::Pipeline(Pipeline {
                consensus: Consensus::Mean,
                ..Pipeline::default()
            })),
            Self::TaskMasks(options) => options.way(),
        }
    }

    /// Writes its adapters and files.
    pub(super) fn write(
        &self,
        merger: &Merger,
        recipe: &Recipe,
        out: &Path,
        outcome: &mut Outcome,
        step: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut writing = Writing {
            merger,
            recipe,
            out,
            outcome,
            step,
        };
        match self {
            Self::Rmm(options) => options.write(&mut writing),
            Self::Mbc(options) => options.write(&mut writing),
            Self::TaskMasks(options) => options.write(&mut writing),
        }?;
        let parts = outcome.parts.values();
        outcome.bytes += parts.map(|part| part.bytes).sum::<u64>();
        Ok(())
    }
}

/// What a collection is written with.
struct Writing<'a, 'b> {
    merger: &'a Merger,
    recipe: &'a Recipe,
    out: &'b Path,
    outcome: &'b mut Outcome,
    step: &'b mut dyn FnMut(&str),
}

impl<'a> Writing<'a, '_> {
    /// Begins an adapter in a directory of its own.
    fn begin(
        &self,
        name: &str,
        output: &'a Output,
        first: &'a Source,
    ) -> Result<AdapterWriter<'a>> {
        let path: PathBuf = self.out.join(name);
        std::fs::create_dir(&path)
            .map_err(|error| Error::file(&path, format!("cannot be made: {error}")))?;
        Ok(AdapterWriter::new(
            self.merger,
            self.recipe,
            output,
            first,
            &path,
        ))
    }

    /// Ends it.
    fn end(
        &mut self,
        name: &str,
        writer: AdapterWriter<'_>,
        saved: &BTreeMap<String, HostTensor>,
        of: &[&Source],
    ) -> Result<&Part> {
        let adapters = of.iter().map(|source| source.name().to_owned());
        let part = writer.finish(saved, adapters.collect())?;
        self.outcome.parts.insert(name.to_owned(), part);
        Ok(&self.outcome.parts[name])
    }

    /// One adapter for each of the sources, under its name.
    fn begin_each(&self, output: &'a Output) -> Result<Vec<AdapterWriter<'a>>> {
        let sources = self.merger.sources.iter();
        sources
            .map(|source| self.begin(source.name(), output, source))
            .collect()
    }

    /// Ends them, each with the whole parameters of its source.
    fn end_each(&mut self, writers: Vec<AdapterWriter<'_>>) -> Result<()> {
        let merger = self.merger;
        for (source, writer) in merger.sources.iter().zip(writers) {
            let saved = match self.recipe.saved {
                super::Saved::Drop => super::Saved::Drop,
                _ => super::Saved::Keep,
            };
            let saved = merger.saved([source], saved)?;
            self.end(source.name(), writer, &saved, &[source])?;
        }
        Ok(())
    }
}
