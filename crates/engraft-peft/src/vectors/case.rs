//! A case as its files describe it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::TensorData;
use engraft_core::file;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Stop;
use crate::adapter::PeftAdapter;
use crate::config::PeftConfig;
use crate::error::Result;
use crate::field::MODEL;

/// A line of `index.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) kind: String,
    /// Models have none.
    #[serde(default)]
    pub(super) json_file: String,
    #[serde(default)]
    pub(super) tensors_file: String,
    /// Directory of the model of a case on one.
    #[serde(default)]
    pub(super) model_dir: String,
    /// Directory of the adapter on it.
    #[serde(default)]
    pub(super) adapter_dir: String,
    /// That of a model's own outputs.
    #[serde(default)]
    pub(super) tolerance: BTreeMap<String, Tolerance>,
}

#[derive(Debug, Deserialize)]
struct Index {
    cases: Vec<Entry>,
}

/// The base network.
#[derive(Debug, Deserialize)]
pub(super) struct Net {
    pub(super) kind: String,
    /// Side of a convolution's patches.
    #[serde(default)]
    pub(super) k: usize,
    /// Of a convolution.
    #[serde(default)]
    pub(super) stride: usize,
    /// Of a convolution.
    #[serde(default)]
    pub(super) padding: usize,
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
    #[serde(default, flatten)]
    training: Training,
}

/// A run of gradient descent, of the kind `adalora_allocator`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Training {
    #[serde(default)]
    pub(super) lr: f64,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
    /// Which triplets are left, by parameter.
    #[serde(default)]
    pub(super) final_rank_pattern: BTreeMap<String, Vec<bool>>,
}

/// A step of it, counted from 1.
#[derive(Debug, Deserialize)]
pub(super) struct Step {
    pub(super) step: u64,
    pub(super) budget: usize,
    /// Whether triplets were removed.
    pub(super) mask: bool,
    pub(super) loss: f64,
    pub(super) loss_without_orth_reg: f64,
    /// Triplets left, by parameter.
    pub(super) ranks: BTreeMap<String, usize>,
}

/// A case.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) net: Net,
    /// Adapters by name, in the order they are active. The one adapter of a `layer` case has no
    /// name in the tensors' keys.
    pub(super) adapters: Vec<(String, PeftAdapter)>,
    /// What the adapters' files hold, where that is less than what was trained.
    pub(super) saved: Vec<(String, PeftAdapter)>,
    pub(super) is_named: bool,
    pub(super) adapter_names: Vec<String>,
    pub(super) tolerance: BTreeMap<String, Tolerance>,
    pub(super) tensors: BTreeMap<String, TensorData>,
    pub(super) training: Training,
}

/// Name of the adapter of a case with one.
pub(super) const ONLY: &str = "default";

/// The cases of a directory.
pub(super) fn index(directory: &Path) -> Result<Vec<Entry>> {
    Ok(json::<Index>(&directory.join("index.json"))?.cases)
}

/// The contents of a JSON file.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
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
        let (mut tensors, _) = file::read_tensors(&directory.join(&entry.tensors_file))?;
        let mut tolerance = file.tolerance;
        if let Configs::Named(configs) = &file.adapter_config {
            let types: BTreeSet<&str> = configs.values().map(PeftConfig::peft_type).collect();
            if types.len() > 1 {
                let names: Vec<&str> = configs.keys().map(String::as_str).collect();
                (tensors, tolerance) = (unnested(tensors, &names), unnested(tolerance, &names));
            }
        }
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
            let adapter = PeftAdapter::from_parts(config, part("adapter")).with_frozen(part("aux"));
            let residual = tensors.keys().any(|key| key.starts_with("residual."));
            let adapter = if residual {
                adapter.on_residual()
            } else {
                adapter
            };
            (name.clone(), adapter)
        });
        let mut adapters: Vec<(String, PeftAdapter)> = adapters.collect();
        let trained = within(&tensors, "param.");
        let mut saved = Vec::new();
        if let ([(_, adapter)], false) = (&mut adapters[..], trained.is_empty()) {
            saved.push((ONLY.to_owned(), adapter.clone()));
            *adapter = as_trained(adapter, trained);
        }
        Ok(Self {
            net: file.net,
            adapters,
            saved,
            is_named,
            adapter_names: file.adapter_names,
            tolerance,
            tensors,
            training: file.training,
        })
    }

    /// The tensor of this key.
    pub(super) fn tensor(&self, key: &str) -> Result<&TensorData, Stop> {
        self.tensors
            .get(key)
            .ok_or_else(|| Stop::Fail(format!("{key} is missing")))
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

/// The adapter with its trained parameters in the place of what the file holds of them
/// (VB-LoRA's logits instead of the best of them).
fn as_trained(adapter: &PeftAdapter, trained: BTreeMap<String, TensorData>) -> PeftAdapter {
    let mut whole = adapter.clone();
    let is_rest = |key: &str| {
        trained
            .keys()
            .any(|trained| key.starts_with(trained.as_str()))
    };
    whole.tensors.retain(|key, _| !is_rest(key));
    whole.tensors.extend(trained.clone());
    let keys = &mut whole.config.keys;
    keys.insert("save_only_topk_weights".to_owned(), false.into());
    whole
}

/// What belongs to adapters of several types, under the keys of a model with that type alone.
///
/// In a mixed model the wrappers of one type lie inside those of another, so that keys have levels
/// `.base_layer`, and each adapter was saved with what its wrappers hold: the base's parameters and
/// the other adapters, which are dropped here. Each key lacks the adapter's name wherever it
/// follows a dot, so that `.base_layer` of the adapter `b` reads `ase_layer`.
fn unnested<V>(values: BTreeMap<String, V>, names: &[&str]) -> BTreeMap<String, V> {
    let base: Vec<String> = values
        .keys()
        .filter_map(|key| key.strip_prefix("base.").map(str::to_owned))
        .collect();
    let renamed = |key: &str| -> Option<String> {
        for name in names {
            let cut = |text: &str| text.replace(&format!(".{name}"), "");
            for prefix in [format!("adapter.{name}."), format!("grad.{name}.")] {
                let Some(rest) = key.strip_prefix(&prefix) else {
                    continue;
                };
                let bare = rest.replace(&cut(".base_layer"), "");
                let is_other = |other: &&str| other != name && bare.contains(&format!(".{other}."));
                let is_base = |param: &String| bare == cut(&format!("{MODEL}{param}"));
                let foreign = names.iter().any(is_other) || base.iter().any(is_base);
                return (!foreign).then(|| format!("{prefix}{bare}"));
            }
        }
        Some(key.to_owned())
    };
    values
        .into_iter()
        .filter_map(|(key, value)| Some((renamed(&key)?, value)))
        .collect()
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
