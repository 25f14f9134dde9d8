//! Where (IA)^3 goes in the architectures that are known by name.

use std::collections::BTreeMap;

use engraft_core::{Include, Targets};

/// `model_type`, the layers that are scaled, and those of them whose inputs are: PEFT 0.21.2's defaults
/// (peft/utils/constants.py). Mostly the paper's keys, values and second feed-forward layer; in some
/// rows PEFT has queries in place of keys, and layers that hold queries, keys and values at once are
/// scaled whole.
const ROWS: &[(&str, &[&str], &[&str])] = &[
    ("t5", &["k", "v", "wo"], &["wo"]),
    ("mt5", &["k", "v", "wi_1"], &[]),
    ("gpt2", &["c_attn", "mlp.c_proj"], &["mlp.c_proj"]),
    (
        "bloom",
        &["query_key_value", "mlp.dense_4h_to_h"],
        &["mlp.dense_4h_to_h"],
    ),
    ("bert", &["key", "value", "output.dense"], &["output.dense"]),
    (
        "roberta",
        &["key", "value", "output.dense"],
        &["output.dense"],
    ),
    // Not in PEFT's table; RoBERTa under another name.
    (
        "xlm-roberta",
        &["key", "value", "output.dense"],
        &["output.dense"],
    ),
    ("deberta", &["in_proj", "output.dense"], &["output.dense"]),
    (
        "deberta-v2",
        &["key_proj", "value_proj", "output.dense"],
        &["output.dense"],
    ),
    ("opt", &["q_proj", "k_proj", "fc2"], &["fc2"]),
    ("gptj", &["q_proj", "v_proj", "fc_out"], &["fc_out"]),
    (
        "gpt_neox",
        &["query_key_value", "dense_4h_to_h"],
        &["dense_4h_to_h"],
    ),
    ("gpt_neo", &["q_proj", "v_proj", "c_proj"], &["c_proj"]),
    ("bart", &["q_proj", "v_proj", "fc2"], &["fc2"]),
    ("gpt_bigcode", &["c_attn", "mlp.c_proj"], &["mlp.c_proj"]),
    ("llama", &["k_proj", "v_proj", "down_proj"], &["down_proj"]),
    ("llama4", &["q_proj", "v_proj", "down_proj"], &["down_proj"]),
    (
        "mistral",
        &["k_proj", "v_proj", "down_proj"],
        &["down_proj"],
    ),
    ("mixtral", &["k_proj", "v_proj", "w2"], &["w2"]),
    (
        "falcon",
        &["query_key_value", "dense_4h_to_h"],
        &["dense_4h_to_h"],
    ),
    ("phi", &["q_proj", "v_proj", "fc2"], &["fc2"]),
    ("gemma", &["q_proj", "v_proj", "down_proj"], &["down_proj"]),
    ("gemma2", &["q_proj", "v_proj", "down_proj"], &["down_proj"]),
    (
        "gemma3_text",
        &["q_proj", "v_proj", "down_proj"],
        &["down_proj"],
    ),
    ("qwen2", &["q_proj", "v_proj", "down_proj"], &["down_proj"]),
    ("qwen3", &["q_proj", "v_proj", "down_proj"], &["down_proj"]),
];

/// The targets in an architecture, with `scales = "input"` for the feed-forward layers.
pub(crate) fn usual(architecture: &str) -> Option<Targets> {
    let (_, layers, inputs) = ROWS.iter().find(|(name, ..)| *name == architecture)?;
    let by_input = || {
        [("scales".to_owned(), "input".into())]
            .into_iter()
            .collect()
    };
    let pattern: BTreeMap<_, _> = inputs
        .iter()
        .map(|name| (name.replace('.', r"\."), by_input()))
        .collect();
    Some(Targets {
        include: Include::Names(layers.iter().map(|name| (*name).to_owned()).collect()),
        config_pattern: pattern,
        ..Targets::default()
    })
}
