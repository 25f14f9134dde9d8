//! A checkpoint with an adapter folded into its weights.

use std::fs;
use std::path::{Path, PathBuf};

use engraft_core::Adapted;
use engraft_kernels::Quantisation;
use engraft_models::Pretrained;
use serde_json::{Map, Value, json};

use super::card::Card;
use super::subject::{device, head, input, located, subject};
use super::{adapters, predict::outputs, quantised};
use crate::{Error, Result};

/// Files beside the weights that belong to a model.
const ALONG: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "preprocessor_config.json",
];

/// What merging did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// What a user should know of the adapter.
    pub warnings: Vec<String>,
    /// What quantising the base changed, where the adapter was trained on one of few bits.
    pub errors: Vec<String>,
}

/// A model of a directory with an adapter of another attached.
pub(crate) struct Loaded {
    /// The model's directory.
    pub model: PathBuf,
    /// What the adapter was trained for.
    pub card: Option<Card>,
    /// How the model's weights are quantised.
    pub base: Option<Quantisation>,
    /// The model.
    pub adapted: Adapted<Pretrained>,
    /// What a user should know of the adapter.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Loads both on the host, with the head that the adapter has.
    pub fn new(model: &Path, adapter: &Path) -> Result<Self> {
        let model = located(model)?;
        let card = Card::read(adapter)?;
        let task = match &card {
            Some(card) => Some(head(card.output, outputs(card))),
            None => adapters::head(adapter)?,
        };
        let base = card.as_ref().and_then(|card| card.base);
        let mut adapted = subject(&model, task, base, &device("flex")?, 0)?;
        let warnings = adapters::load(&mut adapted, adapter)?;
        Ok(Self {
            model,
            card,
            base,
            adapted,
            warnings,
        })
    }
}

/// Writes the model of a directory with an adapter merged into it: a plain checkpoint, with the
/// adapter's head if it trained one. An adapter that was trained on quantised weights is merged into
/// what these stand for, and all of them are written so.
///
/// # Errors
/// A model or an adapter that cannot be read, an adapter for another model, a method that cannot be
/// merged; then nothing was written.
pub fn merge_into(model: &Path, adapter: &Path, out: &Path) -> Result<Merged> {
    adapters::check_free(out)?;
    let Loaded {
        model,
        card,
        base,
        mut adapted,
        warnings,
    } = Loaded::new(model, adapter)?;
    let model = &model;
    adapted.merge().map_err(input)?;
    let errors = match base {
        None => Vec::new(),
        Some(how) => vec![
            quantised::loaded(how, &adapted.model.report().quantised),
            quantised::merged(how, &mut adapted.model)?,
        ],
    };
    let folder = adapters::beside(out)?;
    adapted.model.save(folder.path()).map_err(input)?;
    if let Some(card) = card.filter(|card| card.labels.len() > 1) {
        name_labels(&folder.path().join("config.json"), &card.labels)?;
    }
    for name in ALONG {
        let from = model.join(name);
        if from.exists() {
            fs::copy(&from, folder.path().join(name))
                .map_err(|error| Error::io("read", &from, &error))?;
        }
    }
    adapters::place(folder, out)?;
    Ok(Merged { warnings, errors })
}

/// Gives the classes of a `config.json` their names.
fn name_labels(path: &Path, labels: &[String]) -> Result<()> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
    let mut config: Value = serde_json::from_str(&text).map_err(input)?;
    let named = labels.iter().enumerate();
    let to_label: Map<String, Value> = named
        .clone()
        .map(|(at, name)| (at.to_string(), json!(name)))
        .collect();
    let to_id: Map<String, Value> = named.map(|(at, name)| (name.clone(), json!(at))).collect();
    config["id2label"] = to_label.into();
    config["label2id"] = to_id.into();
    let text = serde_json::to_string_pretty(&config).expect("plain data");
    fs::write(path, text).map_err(|error| Error::io("write", path, &error))
}
