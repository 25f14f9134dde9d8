//! Adapters: PEFT's two files, or Engraft's one.

use std::path::Path;

use engraft_core::{Attachment, Header};
use serde_json::{Map, Value};

use super::{Contents, header, json, sizes};
use crate::adapt::Card;
use crate::{Error, Result};

/// Configuration keys that say nothing about what an adapter computes, or that are told apart.
const ELSEWHERE: [&str; 6] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "task_type",
];

/// A directory with PEFT's two files.
pub(super) fn directory(path: &Path) -> Result<Contents> {
    let config: Map<String, Value> = json(&path.join(engraft_peft::CONFIG_FILE))?;
    let file = path.join(engraft_peft::TENSOR_FILE);
    let header = header(&file)?;
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let kind = text("peft_type").unwrap_or("unknown");
    let methods: Vec<&str> = engraft::METHODS
        .iter()
        .filter(|entry| entry.meta.peft == Some(kind))
        .map(|entry| entry.meta.name)
        .collect();
    let methods = match methods.is_empty() {
        true => "not known to Engraft".to_owned(),
        false => methods.join(", "),
    };
    let mut contents = Contents {
        title: format!("PEFT adapter of type {kind}: {methods}"),
        ..Contents::default()
    };
    contents.fact(
        "base model",
        text("base_model_name_or_path").unwrap_or("not said"),
    );
    contents.fact("task", text("task_type").unwrap_or("not said"));
    if let Some(version) = text("peft_version") {
        contents.fact("written by", format!("PEFT {version}"));
    }
    contents.fact("tensors", sizes([&header]));
    for (key, value) in &config {
        if !ELSEWHERE.contains(&key.as_str()) && says_something(value) {
            contents.fact(key, shortened(value));
        }
    }
    contents.files = vec![(file, header)];
    Ok(contents)
}

/// What an adapter was trained for, from the card beside it.
pub(super) fn card(contents: &mut Contents, card: &Card) {
    contents.fact("trained on", &card.model);
    let task = card.task.as_ref().and_then(|task| {
        let task = serde_json::to_value(task).ok()?;
        task["kind"].as_str().map(str::to_owned)
    });
    let task = task.unwrap_or_else(|| "classes of images".to_owned());
    contents.fact("for", task);
    if !card.labels.is_empty() {
        contents.fact("labels", shortened(&card.labels.clone().into()));
    }
    let metrics = card.metrics.iter();
    let metrics: Vec<String> = metrics
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    contents.fact(
        "measured",
        format!("{} after {} updates", metrics.join(", "), card.steps),
    );
}

/// A file of Engraft, or `None` if it is another one.
pub(super) fn file(header: &Header) -> Result<Option<Contents>> {
    let Some(manifest) = header.metadata.get("engraft") else {
        return Ok(None);
    };
    let attachment: Attachment = serde_json::from_str(manifest)
        .map_err(|error| Error::Input(format!("its `engraft` entry is malformed: {error}")))?;
    let known = engraft::METHODS
        .iter()
        .find(|entry| entry.meta.id == attachment.method);
    let method = known.map_or(attachment.method.as_str(), |entry| entry.meta.name);
    let mut contents = Contents {
        title: format!("Engraft adapter `{}`: {method}", attachment.name),
        ..Contents::default()
    };
    let targets = serde_json::to_value(&attachment.injection.targets).expect("plain data");
    contents.fact("configuration", shortened(&attachment.config));
    contents.fact("targets", shortened(&targets));
    contents.fact("seed", attachment.injection.seed);
    for (what, paths) in [
        ("layers", &attachment.layers),
        ("sites", &attachment.sites),
        ("parameters of the model", &attachment.params),
    ] {
        if !paths.is_empty() {
            contents.fact(what, paths.len());
        }
    }
    Ok(Some(contents))
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(table) => !table.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// Longest value that is shown whole.
const WIDTH: usize = 90;

fn shortened(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            words.join(", ")
        }
        other => other.to_string(),
    };
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
