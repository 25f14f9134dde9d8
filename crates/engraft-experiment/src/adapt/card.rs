//! What an adapter was trained for, beside its weights.

use std::collections::BTreeMap;
use std::path::Path;

use engraft_core::file::write_atomically;
use engraft_data::{Metric, Task, task::Output};
use engraft_kernels::Quantisation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Answers;
use crate::{Error, Result};

/// Name of its file in an adapter's directory.
pub const CARD: &str = "engraft.json";

/// What an adapter was trained for: enough to predict with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Card {
    /// Version of Engraft.
    pub version: String,
    /// The model as it was given: its directory, or its id on the hub.
    pub model: String,
    /// Id of the method.
    pub method: String,
    /// Its configuration.
    pub config: Value,
    /// How the model's weights were quantised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Quantisation>,
    /// What the model computes.
    pub output: Output,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// For text: the task with its columns and labels.
    pub task: Option<Task>,
    /// Most tokens of a text.
    pub max_length: usize,
    /// What is measured.
    #[serde(default)]
    pub measures: Vec<Metric>,
    /// How much was generated for it.
    #[serde(default)]
    pub answers: Answers,
    /// Seed of the run.
    pub seed: u64,
    /// Updates made.
    pub steps: u64,
    /// What was measured after training.
    pub metrics: BTreeMap<String, f64>,
}

impl Card {
    /// Reads the card of an adapter's directory; `None` if it has none, as those that Python wrote.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        if !directory.is_dir() {
            return Err(Error::Input(format!(
                "{} is no directory: expected that of an adapter",
                directory.display()
            )));
        }
        let path = directory.join(CARD);
        if !path.exists() {
            return Ok(None);
        }
        let text =
            std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Error::Input(format!("{}: malformed: {error}", path.display())))
    }

    /// Writes it into a directory.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        write_atomically(&directory.join(CARD), text.as_bytes())
            .map_err(|error| Error::Input(error.to_string()))
    }
}
