//! The updates of a merge, module by module.

use std::collections::BTreeMap;

use engraft_linalg::Matrix;
use safetensors::Dtype;

use super::{Collection, Missing, Recipe, Saved, Source, Way, checks};
use crate::base::{Base, Layout};
use crate::diagnose::Diagnosis;
use crate::error::{Error, Result};
use crate::file::HostTensor;
use crate::methods::Found;
use crate::pipeline::{Survey, Task};
use crate::update::{Dense, Update};

/// A merge that is ready: adapters are open, and fit each other.
#[derive(Debug)]
pub struct Merger {
    pub(super) sources: Vec<Source>,
    pub(super) base: Option<Base>,
    pub(super) modules: BTreeMap<String, Layout>,
    pub(super) way: Way,
    pub(super) collection: Option<Collection>,
    survey: Survey,
    pub(super) missing: Missing,
    /// What a search found.
    pub(super) found: Option<Found>,
    /// What a user should know.
    pub(super) warnings: Vec<String>,
}

/// What a module's tasks borrow from.
pub(super) struct Brought {
    /// Of the adapters at these places.
    pub(super) updates: Vec<(usize, Update)>,
    /// The base's weight, where updates are relative to it.
    pub(super) weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    statistics: Vec<Statistics>,
}

/// Of one adapter's task.
#[derive(Default)]
struct Statistics {
    fisher: Option<Dense>,
    bias_fisher: Option<Vec<f32>>,
    gram: Option<Matrix>,
}

impl Merger {
    /// Opens the adapters of a recipe and checks that they belong together. `base` is the opened
    /// checkpoint of the recipe.
    ///
    /// # Errors
    /// Files that are missing or malformed, adapters of different bases, modules that some lack, shapes
    /// that differ; the message says which adapter and module, and what would work.
    pub fn open(recipe: &Recipe, base: Option<Base>) -> Result<Self> {
        recipe.check()?;
        let sources = recipe.adapters.iter().map(Source::open);
        let mut sources: Vec<Source> = sources.collect::<Result<_>>()?;
        let weights = sources.iter_mut().zip(recipe.weights()?);
        weights.for_each(|(source, weight)| source.weight = weight);
        let warnings = checks::bases(&sources, base.as_ref())?;
        let way = Way::of(recipe)?;
        let missing = match way {
            // PEFT leaves out who lacks a module.
            Way::Compatible(_) => Missing::Skip,
            _ => recipe.missing,
        };
        let modules = checks::modules(&sources, missing)?;
        if let Some(base) = &base {
            checks::shapes(&modules, &sources, base)?;
        }
        let mut merger = Self {
            sources,
            base,
            modules,
            way,
            collection: Collection::of(recipe)?,
            survey: Survey::default(),
            missing,
            found: None,
            warnings,
        };
        if let Way::Pipeline(pipeline) = &merger.way
            && pipeline.needs_survey()
        {
            merger.survey = pipeline.survey(|look| {
                let mut modules = merger.modules.keys();
                modules
                    .try_for_each(|module| merger.with_tasks(module, |tasks| look(module, tasks)))
            })?;
        }
        Ok(merger)
    }

    /// The adapters.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The modules that the merge changes, and how their weights lie in the base.
    #[must_use]
    pub fn modules(&self) -> &BTreeMap<String, Layout> {
        &self.modules
    }

    /// The same merge with other weights, in the adapters' order.
    ///
    /// # Errors
    /// Not as many weights as adapters.
    pub fn weighted(&mut self, weights: &[f64]) -> Result<()> {
        if weights.len() != self.sources.len() {
            let reason = format!(
                "{} weights for {} adapters",
                weights.len(),
                self.sources.len()
            );
            return Err(Error::input(reason));
        }
        let pairs = self.sources.iter_mut().zip(weights);
        pairs.for_each(|(source, weight)| source.weight = *weight);
        Ok(())
    }

    /// What the merge changes in a module, exactly as the method defines it.
    ///
    /// # Errors
    /// Updates that are not finite or of different shapes; a base or statistics that are missing.
    pub fn update(&self, module: &str) -> Result<Update> {
        self.with_tasks(module, |tasks| self.way.merge(module, tasks, &self.survey))
    }

    /// Puts a module into a diagnosis of the adapters.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn diagnose(&self, module: &str, into: &mut Diagnosis) -> Result<()> {
        let brought = self.bring(module, Missing::Zero)?;
        let updates: Vec<&Update> = brought.updates.iter().map(|(_, update)| update).collect();
        let whole = updates.iter().all(|update| update.known_shape().is_ok());
        match whole {
            true => into.add(module, &updates, brought.weight.as_deref()),
            false => Ok(()),
        }
    }

    /// The numbers of the base that an update of a module is relative to, if it is.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn weight(&self, module: &str, update: &Update) -> Result<Option<Vec<f32>>> {
        match (update.needs_base(), &self.base) {
            (true, Some(base)) => Ok(Some(base.weight(module, &self.modules[module])?.data)),
            _ => Ok(None),
        }
    }

    /// The base's bias of a module.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn bias(&self, module: &str) -> Result<Option<Vec<f32>>> {
        self.base
            .as_ref()
            .map_or(Ok(None), |base| base.bias(module))
    }

    pub(super) fn with_tasks<T>(
        &self,
        module: &str,
        then: impl FnOnce(&[Task<'_>]) -> Result<T>,
    ) -> Result<T> {
        let brought = self.bring(module, self.missing)?;
        let tasks = brought.updates.iter().zip(&brought.statistics);
        let tasks = tasks.map(|((at, update), statistics)| Task {
            base: brought.weight.as_deref(),
            base_bias: brought.bias.as_deref(),
            fisher: statistics.fisher.as_ref().map(|fisher| fisher as _),
            bias_fisher: statistics.bias_fisher.as_deref(),
            gram: statistics.gram.as_ref(),
            ..Task::new(self.sources[*at].name(), self.sources[*at].weight(), update)
        });
        then(&tasks.collect::<Vec<_>>())
    }

    /// The updates of a module and what they are relative to.
    pub(super) fn bring(&self, module: &str, missing: Missing) -> Result<Brought> {
        let layout = self.modules.get(module);
        let layout =
            layout.ok_or_else(|| Error::input(format!("no adapter has a module `{module}`")))?;
        let mut updates = Vec::new();
        let mut shape = Update::default();
        for (at, source) in self.sources.iter().enumerate() {
            if source.layout(module).is_some() {
                let update = source.update(module, self.base.as_ref())?;
                shape.shape = shape
                    .common_shape(&update)
                    .map_err(|error| Error::module(source.name(), module, error))?;
                updates.push((at, update));
            } else if missing == Missing::Zero {
                updates.push((at, Update::default()));
            }
        }
        if let Some(base) = &self.base {
            let known = base.shape(module, layout)?;
            shape.shape = shape
                .common_shape(&Update::zero(known[0], known[1]))
                .map_err(|error| {
                    let name = self.sources[updates[0].0].name();
                    Error::module(name, module, format!("{error}: it is for another base"))
                })?;
        }
        updates
            .iter_mut()
            .for_each(|(_, update)| update.shape = shape.shape);
        let relative = updates.iter().find(|(_, update)| update.needs_base());
        let weight = match relative {
            Some((_, update)) => self.weight(module, update)?,
            None => None,
        };
        let statistics = updates.iter().map(|(at, _)| self.sources[*at].of(module));
        Ok(Brought {
            statistics: statistics.collect::<Result<_>>()?,
            bias: self.bias(module)?,
            updates,
            weight,
        })
    }

    /// The parameters that some of the adapters have whole, as the recipe wants them.
    pub(super) fn saved<'a>(
        &self,
        sources: impl IntoIterator<Item = &'a Source>,
        saved: Saved,
    ) -> Result<BTreeMap<String, HostTensor>> {
        let mut kept: BTreeMap<String, HostTensor> = BTreeMap::new();
        if saved == Saved::Drop {
            return Ok(kept);
        }
        let mut weights: BTreeMap<String, (&Source, f64)> = BTreeMap::new();
        for source in sources {
            for path in source.adapter().saved() {
                let mut tensor = source.adapter().saved_tensor(path)?;
                let Some((first, sum)) = weights.get(path).copied() else {
                    weights.insert(path.to_owned(), (source, source.weight()));
                    if saved == Saved::Average {
                        tensor
                            .data
                            .iter_mut()
                            .for_each(|x| *x *= source.weight() as f32);
                    }
                    kept.insert(path.to_owned(), tensor);
                    continue;
                };
                if saved == Saved::Keep {
                    let reason = format!(
                        "it has {path} whole, and so has `{}`: such parameters have no sum; `saved = \"average\"` takes their weighted mean, \"drop\" leaves them out",
                        first.name()
                    );
                    return Err(Error::adapter(source.name(), reason));
                }
                let own = kept.get_mut(path).expect("with its weight");
                if own.shape != tensor.shape {
                    let reason = format!(
                        "its {path} is {:?}, that of `{}` {:?}",
                        tensor.shape,
                        first.name(),
                        own.shape
                    );
                    return Err(Error::adapter(source.name(), reason));
                }
                let pairs = own.data.iter_mut().zip(&tensor.data);
                pairs.for_each(|(x, y)| *x += source.weight() as f32 * y);
                weights.insert(path.to_owned(), (first, sum + source.weight()));
            }
        }
        if saved == Saved::Average {
            for (path, tensor) in &mut kept {
                let (source, sum) = weights[path];
                if sum == 0.0 {
                    let reason = format!(
                        "the weights of the adapters with {path} add up to 0: there is no mean"
                    );
                    return Err(Error::adapter(source.name(), reason));
                }
                tensor.data.iter_mut().for_each(|x| *x /= sum as f32);
            }
        }
        Ok(kept)
    }

    /// The precision of the first adapter's tensors.
    pub(super) fn dtype(&self) -> Dtype {
        let infos = self.sources[0].adapter().files().infos();
        let mut weights = infos.values().map(|info| info.dtype);
        weights
            .find(|dtype| crate::file::WEIGHTS.contains(dtype))
            .unwrap_or(Dtype::F32)
    }
}

impl Source {
    fn of(&self, module: &str) -> Result<Statistics> {
        let Some(files) = self.statistics() else {
            return Ok(Statistics::default());
        };
        let read = |field: &str| {
            let name = format!("{module}.{field}");
            let known = files.infos().contains_key(&name);
            let tensor = known.then(|| files.read(&name)).transpose();
            tensor.map_err(|error| Error::module(self.name(), module, error))
        };
        let fisher = read("fisher")?.map(|tensor| {
            let rows = tensor.shape.first().copied().unwrap_or(1);
            Dense::new(rows, tensor.data.len() / rows.max(1), tensor.data)
        });
        let gram = read("gram")?.map(|tensor| tensor.matrix());
        Ok(Statistics {
            fisher: fisher.transpose()?,
            bias_fisher: read("bias.fisher")?.map(|tensor| tensor.data),
            gram: gram.transpose()?,
        })
    }
}
