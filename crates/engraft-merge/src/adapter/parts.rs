//! The tensors of one module, as a form reads them.

use engraft_linalg::Matrix;

use super::{Adapter, Config};
use crate::base::{Base, Layout};
use crate::error::{Error, Result};
use crate::file::HostTensor;

/// One module of an adapter.
pub(super) struct Parts<'a> {
    pub(super) adapter: &'a Adapter,
    pub(super) module: &'a str,
    pub(super) base: Option<&'a Base>,
}

impl Parts<'_> {
    /// The configuration.
    pub(super) fn config(&self) -> &Config {
        &self.adapter.config
    }

    /// An error of this module.
    pub(super) fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::module(&self.adapter.name, self.module, reason)
    }

    /// How the module's weight lies in the base.
    pub(super) fn layout(&self) -> &Layout {
        &self.adapter.modules[self.module].layout
    }

    fn key(&self, field: &str) -> String {
        format!("{}.{field}", self.adapter.modules[self.module].stem)
    }

    /// Whether the module has a tensor.
    pub(super) fn has(&self, field: &str) -> bool {
        self.adapter.files.infos().contains_key(&self.key(field))
    }

    /// A tensor of the module.
    pub(super) fn tensor(&self, field: &str) -> Result<HostTensor> {
        let read = self.adapter.files.read(&self.key(field));
        read.map_err(|error| self.error(error))
    }

    /// Whole numbers of the module.
    pub(super) fn integers(&self, field: &str) -> Result<Vec<i64>> {
        let read = self.adapter.files.integers(&self.key(field));
        read.map_err(|error| self.error(error))
    }

    /// A tensor of the module, its first dimension against the others.
    pub(super) fn matrix(&self, field: &str) -> Result<Matrix> {
        let matrix = self.tensor(field)?.matrix();
        matrix.map_err(|error| self.error(format!("{field}: {error}")))
    }

    /// A tensor of the module as a list.
    pub(super) fn vector(&self, field: &str) -> Result<Vec<f64>> {
        let data = self.tensor(field)?.data;
        Ok(data.into_iter().map(f64::from).collect())
    }

    /// A tensor that the adapter's modules share.
    pub(super) fn shared(&self, key: &str) -> Result<Matrix> {
        let read = self.adapter.files.read(key);
        let tensor = read.map_err(|error| Error::adapter(&self.adapter.name, error))?;
        tensor.matrix()
    }

    /// The weight of the base, `[out, in]`.
    pub(super) fn weight(&self) -> Result<HostTensor> {
        let Some(base) = self.base else {
            let reason = "its update depends on the base's weight: give `base`";
            return Err(self.error(reason));
        };
        base.weight(self.module, self.layout())
            .map_err(|error| self.error(error))
    }

    /// (out, in) of the base's weight, if there is a base.
    pub(super) fn shape(&self) -> Result<Option<[usize; 2]>> {
        let shape = self.base.map(|base| base.shape(self.module, self.layout()));
        shape.transpose().map_err(|error| self.error(error))
    }

    /// alpha / rank, or alpha / sqrt(rank).
    pub(super) fn scaling(&self, alpha: &str, rank: f64) -> Result<f64> {
        let config = self.config();
        let alpha = config
            .number_of(alpha, "alpha_pattern", self.module)
            .map_err(|error| self.error(error))?;
        Ok(match config.is_set("use_rslora") {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        })
    }
}
