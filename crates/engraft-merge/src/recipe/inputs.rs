//! The adapters of a recipe, opened.

use crate::adapter::{Adapter, host_form};
use crate::base::{Base, Layout};
use crate::error::{Error, Result};
use crate::file::TensorFiles;
use crate::update::Update;

use super::Input;

/// An adapter of a merge.
#[derive(Debug)]
pub struct Source {
    adapter: Adapter,
    /// As it was before training.
    init: Option<Adapter>,
    statistics: Option<TensorFiles>,
    pub(super) weight: f64,
}

impl Source {
    /// Opens one.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn open(input: &Input) -> Result<Self> {
        let name = &input.name();
        let named = |error: Error| match error {
            Error::File { path, reason } => {
                Error::adapter(name, format!("{}: {reason}", path.display()))
            }
            other => other,
        };
        if !input.path.is_dir() {
            let reason = format!(
                "{} is no directory: expected that of an adapter",
                input.path.display()
            );
            return Err(Error::adapter(name, reason));
        }
        let statistics = input.statistics.as_deref().map(TensorFiles::open);
        let statistics = statistics.transpose().map_err(named)?;
        let (adapter, init) = match &input.init {
            Some(init) => {
                let before = Adapter::open_on_residual(&format!("{name} (init)"), init);
                let adapter = Adapter::open_on_residual(name, &input.path);
                (adapter.map_err(named)?, Some(before.map_err(named)?))
            }
            None => {
                if let Err(reason) = host_form(&input.path).map_err(named)? {
                    let help = "its deltas have to be exported with the base: `cargo xtask merge` does, where the recipe has `base`";
                    return Err(Error::adapter(name, format!("{reason}: {help}")));
                }
                (Adapter::open(name, &input.path).map_err(named)?, None)
            }
        };
        Ok(Self {
            adapter,
            init,
            statistics,
            weight: input.weight,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.adapter.name()
    }

    /// The adapter.
    #[must_use]
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Its weight in the merge.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The statistics of its task.
    #[must_use]
    pub fn statistics(&self) -> Option<&TensorFiles> {
        self.statistics.as_ref()
    }

    /// How a module's weight lies in the base, if the adapter has the module.
    #[must_use]
    pub fn layout(&self, module: &str) -> Option<&Layout> {
        self.adapter
            .modules()
            .get(module)
            .map(|module| &module.layout)
    }

    /// What it changes in a module: the difference to its init, where it has one.
    ///
    /// # Errors
    /// As [`Adapter::update`].
    pub fn update(&self, module: &str, base: Option<&Base>) -> Result<Update> {
        let update = self.adapter.update(module, base)?;
        match &self.init {
            None => Ok(update),
            Some(init) => {
                let before = init.update(module, base)?;
                let difference = update.plus(&before.scaled(-1.0));
                difference.map_err(|error| Error::module(self.name(), module, error))
            }
        }
    }
}
