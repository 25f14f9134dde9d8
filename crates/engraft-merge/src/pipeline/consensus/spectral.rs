//! Merges in singular vectors, of [`crate::spectral`].

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pipeline::prepare::Prepared;
use crate::spectral::{Keep, iso_cts, tsv};
use crate::update::Update;

/// TSV-Merge: the leading singular triples of all w_i dW_i, made orthogonal across tasks ([`tsv`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tsv {
    /// How many triples of a task.
    pub keep: Keep,
}

/// Iso-CTS: common and own directions of all w_i dW_i, all as long ([`iso_cts`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct IsoCts {
    /// Fraction of the directions that is for what the tasks share.
    pub common: f64,
}

impl Default for IsoCts {
    fn default() -> Self {
        Self { common: 0.8 }
    }
}

impl Tsv {
    pub(super) fn check(&self) -> Result<()> {
        match self.keep {
            Keep::Triples(0) => Err(Error::input(
                "tsv: no triples to keep, expected at least one",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn merge(&self, tasks: &[Prepared]) -> Result<Update> {
        let updates = weighted(tasks)?;
        tsv(&updates.iter().collect::<Vec<_>>(), self.keep, None)
    }
}

impl IsoCts {
    pub(super) fn check(&self) -> Result<()> {
        match (0.0..=1.0).contains(&self.common) {
            true => Ok(()),
            false => Err(Error::input(format!(
                "iso-cts: common is {}, expected a fraction from 0 to 1",
                self.common
            ))),
        }
    }

    pub(super) fn merge(&self, tasks: &[Prepared]) -> Result<Update> {
        let updates = weighted(tasks)?;
        iso_cts(&updates.iter().collect::<Vec<_>>(), self.common, None)
    }
}

/// w_i dW_i, of the weights alone.
fn weighted(tasks: &[Prepared]) -> Result<Vec<Update>> {
    let each = tasks.iter().map(|task| {
        let scaled = task.whole()?.scaled(task.task.weight);
        Ok(Update {
            bias: None,
            bias_scale: None,
            ..scaled
        })
    });
    each.collect()
}
