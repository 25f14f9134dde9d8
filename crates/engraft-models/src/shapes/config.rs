//! Reading a `config.json`.

use engraft_core::{Error, ModelShapes, Result};
use engraft_tensor::suggestion;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use crate::task::Task;

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

#[derive(Deserialize)]
struct ModelType {
    model_type: String,
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

pub(crate) fn from_value(config: &Value) -> Result<ModelShapes> {
    let ModelType { model_type } = parse(config)?;
    let Some((_, read)) = FAMILIES.iter().find(|(name, _)| *name == model_type) else {
        let known = || FAMILIES.iter().map(|(name, _)| *name);
        let list = known().collect::<Vec<_>>().join(", ");
        return Err(bad(format!(
            "found model_type `{}`, expected one of {list}{}",
            model_type,
            suggestion(&model_type, known())
        )));
    };
    let mut shapes = read(config, &Task::of(config)?)?;
    shapes.architecture = Some(model_type);
    shapes.config = Some(config.clone());
    Ok(shapes)
}

/// Tokens that the model of a `config.json` has positions for, if it says so. RoBERTa's start behind
/// that of padding.
pub fn positions(config: &Value) -> Option<usize> {
    let keys = ["n_positions", "max_position_embeddings"];
    let all = keys.into_iter().find_map(|key| config[key].as_u64())?;
    let lost = match config["model_type"].as_str() {
        Some("roberta" | "xlm-roberta") => padding_token(config, Some(1)).unwrap_or(1) + 1,
        _ => 0,
    };
    Some(usize::try_from(all).ok()?.saturating_sub(lost))
}

/// The token of padding that a `config.json` names, or the architecture's.
pub(crate) fn padding_token(config: &Value, default: Option<usize>) -> Option<usize> {
    match config.get("pad_token_id") {
        None => default,
        Some(token) => token.as_u64().and_then(|token| usize::try_from(token).ok()),
    }
}

/// The keys that a family needs; others are ignored, because a config.json holds many.
pub(crate) fn parse<T: DeserializeOwned>(config: &Value) -> Result<T> {
    T::deserialize(config).map_err(|error| bad(error.to_string()))
}

pub(crate) fn bad(reason: String) -> Error {
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
