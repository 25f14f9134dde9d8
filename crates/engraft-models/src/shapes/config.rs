//! Reading a `config.json`.

use engraft_core::{Error, ModelShapes, Result};
use engraft_tensor::suggestion;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{bert, bloom, clip, dinov2, gpt2, llama, opt, t5, vit};

type Reader = fn(&Value, &Task) -> Result<ModelShapes>;

/// `model_type` and who reads it.
const FAMILIES: &[(&str, Reader)] = &[
    ("bert", bert::shapes),
    ("bloom", bloom::shapes),
    ("clip_vision_model", clip::shapes),
    ("deberta-v2", bert::shapes),
    ("dinov2", dinov2::shapes),
    ("gemma", llama::shapes),
    ("gemma2", llama::shapes),
    ("gpt2", gpt2::shapes),
    ("llama", llama::shapes),
    ("mistral", llama::shapes),
    ("mt5", t5::shapes),
    ("opt", opt::shapes),
    ("qwen2", llama::shapes),
    ("qwen3", llama::shapes),
    ("roberta", bert::shapes),
    ("t5", t5::shapes),
    ("vit", vit::shapes),
    ("xlm-roberta", bert::shapes),
];

/// What the model is topped with, from the name of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// `...Model`: the encoder or decoder alone, its paths without prefix.
    Bare,
    /// `...ForSequenceClassification`, `...ForImageClassification`: a head of so many classes.
    Classification(usize),
    /// `...ForCausalLM`, `...LMHeadModel`, `...ForConditionalGeneration`: an output layer, which may be tied.
    Language,
    /// Any other `...For...`: the model under its prefix; heads of pre-training are not counted.
    Other,
}

impl Task {
    /// The prefix of the paths: `name` and a dot, unless the model is bare.
    pub fn prefix(self, name: &str) -> String {
        if self == Self::Bare {
            String::new()
        } else {
            format!("{name}.")
        }
    }
}

#[derive(Deserialize)]
struct Common {
    model_type: String,
    architectures: Option<Vec<String>>,
    num_labels: Option<usize>,
    id2label: Option<Map<String, Value>>,
}

impl Common {
    fn task(&self) -> Task {
        let class = self
            .architectures
            .as_ref()
            .and_then(|classes| classes.first())
            .map_or("", String::as_str);
        if class.ends_with("ForSequenceClassification") || class.ends_with("ForImageClassification")
        {
            let labels = self.num_labels.or(self.id2label.as_ref().map(Map::len));
            Task::Classification(labels.unwrap_or(2))
        } else if class.ends_with("ForCausalLM")
            || class.ends_with("LMHeadModel")
            || class.ends_with("ForConditionalGeneration")
        {
            Task::Language
        } else if class.contains("For") {
            Task::Other
        } else {
            Task::Bare
        }
    }
}

/// The shapes of the model that a Hugging Face `config.json` describes.
///
/// # Errors
/// Text that is not JSON, an unknown `model_type` (the message names the nearest), or a key that
/// is missing or of the wrong type.
pub fn from_config_json(text: &str) -> Result<ModelShapes> {
    let config: Value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    from_value(&config)
}

pub(super) fn from_value(config: &Value) -> Result<ModelShapes> {
    let common: Common = parse(config)?;
    let Some((_, read)) = FAMILIES.iter().find(|(name, _)| *name == common.model_type) else {
        let known = || FAMILIES.iter().map(|(name, _)| *name);
        let list = known().collect::<Vec<_>>().join(", ");
        return Err(bad(format!(
            "found model_type `{}`, expected one of {list}{}",
            common.model_type,
            suggestion(&common.model_type, known())
        )));
    };
    let mut shapes = read(config, &common.task())?;
    shapes.architecture = Some(common.model_type);
    Ok(shapes)
}

/// The keys that a family needs; others are ignored, because a config.json holds many.
pub(super) fn parse<T: DeserializeOwned>(config: &Value) -> Result<T> {
    T::deserialize(config).map_err(|error| bad(error.to_string()))
}

pub(super) fn bad(reason: String) -> Error {
    Error::BadConfig {
        what: "config.json".to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_config_says_what_was_found() {
        let message = |text| from_config_json(text).unwrap_err().to_string();
        assert!(message(r#"{"model_type": "lama"}"#).contains("nearest: llama"));
        assert!(message(r#"{"model_type": "gpt2"}"#).contains("missing field `vocab_size`"));
        assert!(message("{").contains("EOF"));
        assert!(message("{}").contains("model_type"));
    }
}
