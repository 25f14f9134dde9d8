//! A case as its files describe it.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use engraft_core::file;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::adapter::PeftAdapter;
use crate::config::PeftConfig;
use crate::error::Result;

/// A line of `index.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) kind: String,
    /// Models have none.
    #[serde(default)]
    json_file: String,
    #[serde(default)]
    tensors_file: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    cases: Vec<Entry>,
}

/// The base network.
#[derive(Debug, Deserialize)]
pub(super) struct Net {
    pub(super) kind: String,
    #[serde(default)]
    pub(super) dims: Vec<usize>,
}

/// |a - b| <= atol + rtol |b|.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Tolerance {
    pub(super) atol: f64,
    pub(super) rtol: f64,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Configs {
    /// By name of the adapter: every value is a table.
    Named(BTreeMap<String, PeftConfig>),
    One(PeftConfig),
}

#[derive(Debug, Deserialize)]
struct CaseFile {
    net: Net,
    adapter_config: Configs,
    /// Names in the order they are active.
    #[serde(default)]
    adapters: Vec<String>,
    /// The adapter of each batch row.
    #[serde(default)]
    adapter_names: Vec<String>,
    tolerance: BTreeMap<String, Tolerance>,
}

/// A case.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) net: Net,
    /// Adapters by name, in the order they are active. The one adapter of a `layer` case has no
    /// name in the tensors' keys.
    pub(super) adapters: Vec<(String, PeftAdapter)>,
    pub(super) is_named: bool,
    pub(super) adapter_names: Vec<String>,
    pub(super) tolerance: BTreeMap<String, Tolerance>,
    pub(super) tensors: BTreeMap<String, TensorData>,
}

/// Name of the adapter of a case with one.
pub(super) const ONLY: &str = "default";

/// The cases of a directory.
pub(super) fn index(directory: &Path) -> Result<Vec<Entry>> {
    Ok(json::<Index>(&directory.join("index.json"))?.cases)
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let broken = |reason: String| engraft_core::Error::File {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| broken(format!("cannot be read: {error}")))?;
    Ok(serde_json::from_str(&text).map_err(|error| broken(format!("malformed: {error}")))?)
}

impl Case {
    pub(super) fn read(directory: &Path, entry: &Entry) -> Result<Self> {
        let file: CaseFile = json(&directory.join(&entry.json_file))?;
        let (tensors, _) = file::read_tensors(&directory.join(&entry.tensors_file))?;
        let is_named = entry.kind != "layer";
        let configs = match file.adapter_config {
            Configs::One(config) => vec![(ONLY.to_owned(), config)],
            Configs::Named(mut configs) => {
                let order = if file.adapters.is_empty() {
                    configs.keys().cloned().collect()
                } else {
                    file.adapters
                };
                order
                    .into_iter()
                    .filter_map(|name| {
                        let config = configs.remove(&name)?;
                        Some((name, config))
                    })
                    .collect()
            }
        };
        let adapters = configs.into_iter().map(|(name, config)| {
            let part = |what: &str| {
                let prefix = if is_named {
                    format!("{what}.{name}.")
                } else {
                    format!("{what}.")
                };
                within(&tensors, &prefix)
            };
            let adapter = PeftAdapter::from_parts(config, part("adapter"));
            (name.clone(), adapter.with_unsaved(part("aux")))
        });
        let adapters = adapters.collect();
        Ok(Self {
            net: file.net,
            adapters,
            is_named,
            adapter_names: file.adapter_names,
            tolerance: file.tolerance,
            tensors,
        })
    }

    /// `grad.` or `grad.<name>.`.
    pub(super) fn gradient_prefix(&self, name: &str) -> String {
        if self.is_named {
            format!("grad.{name}.")
        } else {
            "grad.".to_owned()
        }
    }
}

/// The tensors under a prefix, without it.
pub(super) fn within(
    tensors: &BTreeMap<String, TensorData>,
    prefix: &str,
) -> BTreeMap<String, TensorData> {
    tensors
        .iter()
        .filter_map(|(key, data)| Some((key.strip_prefix(prefix)?.to_owned(), data.clone())))
        .collect()
}
