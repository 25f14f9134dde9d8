//! Known models by name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use engraft_core::{Error, ModelShapes, Result};
use engraft_tensor::suggestion;
use serde_json::Value;

use super::config::from_value;
use crate::presets::digits_vit_config;

/// The one preset in the layout of this project.
const DIGITS: &str = "digits-vit";

/// The keys of each model's published config.json that decide its shapes.
static PRESETS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("presets.json")).expect("checked by a test")
});

/// Names that [`preset`] knows, in alphabetical order.
pub fn preset_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = PRESETS.keys().map(String::as_str).chain([DIGITS]).collect();
    names.sort_unstable();
    names
}

/// The shapes of a known model. Encoders come with a classification head of two labels (ViT:
/// 1000), decoders with their output layer.
///
/// # Errors
/// An unknown name; the message names the nearest.
pub fn preset(name: &str) -> Result<ModelShapes> {
    if name == DIGITS {
        return Ok(digits_vit_config().shapes());
    }
    match PRESETS.get(&name.to_lowercase()) {
        Some(config) => from_value(config),
        None => Err(Error::BadConfig {
            what: "model".to_owned(),
            reason: format!(
                "unknown preset `{name}`, expected a config.json or one of {}{}",
                preset_names().join(", "),
                suggestion(name, preset_names())
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Totals as the publishers or `transformers` report them.
    const TOTALS: &[(&str, usize)] = &[
        ("bert-base", 109_483_778),
        ("bert-large", 335_143_938),
        ("bloomz-560m", 559_214_592),
        ("clip-vit-base-patch32-visual", 87_849_216),
        ("deberta-v3-base", 184_423_682),
        ("dinov2-large", 304_368_640),
        ("gemma-2-9b", 9_241_705_984),
        ("gemma-2b", 2_506_172_416),
        ("gemma-7b", 8_537_680_896),
        ("gpt2", 124_439_808),
        ("gpt2-large", 774_030_080),
        ("gpt2-medium", 354_823_168),
        ("gpt3-175b", 174_604_259_328),
        ("llama-13b", 13_015_864_320),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-7b", 6_738_415_616),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-7b", 6_738_415_616),
        ("mistral-7b", 7_241_732_096),
        ("opt-350m", 331_196_416),
        ("opt-6.7b", 6_658_473_984),
        ("qwen2.5-3b", 3_085_938_688),
        ("roberta-base", 124_647_170),
        ("roberta-large", 355_361_794),
        ("t0-3b", 2_849_757_184),
        ("t5-base", 222_903_552),
        ("t5-large", 737_668_096),
        ("vit-base", 85_798_656 + 769_000),
        ("vit-large", 303_301_632 + 1_025_000),
    ];

    #[test]
    fn totals_are_the_published_ones() {
        for (name, total) in TOTALS {
            assert_eq!(preset(name).unwrap().total(), *total, "{name}");
        }
    }

    #[test]
    fn every_preset_is_readable_and_has_unique_paths() {
        for name in preset_names() {
            let shapes = preset(name).unwrap();
            let mut paths: Vec<&str> = shapes
                .params
                .iter()
                .map(|param| param.path.as_str())
                .chain(shapes.sites.iter().map(|site| site.path.as_str()))
                .collect();
            let found = paths.len();
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), found, "{name}");
            for fold in &shapes.folds {
                let known = |path: &String| shapes.params.iter().any(|param| param.path == *path);
                assert!(fold.scaled.iter().all(known), "{name}: {fold:?}");
                assert!(shapes.sites.iter().any(|site| site.path == fold.site));
                assert!(fold.shifted.iter().all(|path| fold.scaled.contains(path)));
            }
            assert!(
                !shapes.layers.is_empty() && shapes.sites.len() > 4,
                "{name}"
            );
        }
    }

    #[test]
    fn published_adapter_counts_follow_from_the_layers() {
        // LoRA rank 8 on all six linear layers of a DeBERTa-v3-base block: 1,327,104 (SVFT, PSOFT).
        let shapes = preset("deberta-v3-base").unwrap();
        let body = shapes
            .layers
            .iter()
            .filter(|layer| !shapes.is_head(&layer.path));
        assert_eq!(
            body.map(|layer| 8 * (layer.d_in + layer.d_out))
                .sum::<usize>(),
            1_327_104
        );
        // Prefix tuning with 200 tokens on Llama-3.2-3B: n L 2 kv (PEFT).
        let key_value =
            |site: &&engraft_core::SiteShape| site.kind == engraft_core::SiteKind::KeyValue;
        let shapes = preset("llama-3.2-3b").unwrap();
        assert_eq!(
            shapes
                .sites
                .iter()
                .filter(key_value)
                .map(|site| 200 * 2 * site.width)
                .sum::<usize>(),
            11_468_800
        );
    }

    #[test]
    fn an_unknown_name_shows_the_nearest() {
        let error = preset("roberta-bas").unwrap_err().to_string();
        assert!(error.contains("nearest: roberta-base"), "{error}");
    }
}
