//! T5, T5 v1.1 and mT5.

use engraft_core::{ModelShapes, Part, Result};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_decoder_layers: Option<usize>,
    num_heads: usize,
    #[serde(default = "buckets")]
    relative_attention_num_buckets: usize,
    #[serde(default = "relu")]
    feed_forward_proj: String,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

fn buckets() -> usize {
    32
}

fn relu() -> String {
    "relu".to_owned()
}

fn yes() -> bool {
    true
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let mut shapes = ModelShapes::default();
    shapes.embedding("shared", config.vocab_size, config.d_model);
    shapes.prompt_site("encoder.", config.d_model);
    push_stack(
        &mut shapes,
        &config,
        "encoder",
        config.num_layers,
        &["SelfAttention"],
    );
    push_stack(
        &mut shapes,
        &config,
        "decoder",
        config.num_decoder_layers.unwrap_or(config.num_layers),
        &["SelfAttention", "EncDecAttention"],
    );
    match task {
        Task::Classification(labels) => {
            shapes.output(
                "classification_head.dense",
                config.d_model,
                config.d_model,
                true,
            );
            shapes.output(
                "classification_head.out_proj",
                config.d_model,
                *labels,
                true,
            );
        }
        Task::Language if !config.tie_word_embeddings => {
            shapes.output("lm_head", config.d_model, config.vocab_size, false)
        }
        _ => {}
    }
    Ok(shapes)
}

fn push_stack(
    shapes: &mut ModelShapes,
    config: &Config,
    stack: &str,
    blocks: usize,
    attentions: &[&str],
) {
    let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
    for index in 0..blocks {
        let block = format!("{stack}.block.{index}");
        shapes.block_sites(
            &block,
            &format!("{block}.layer.0.SelfAttention"),
            width,
            inner,
        );
        for (position, name) in attentions.iter().enumerate() {
            let layer = format!("{block}.layer.{position}");
            for projection in ["q", "k", "v"] {
                shapes.linear(&format!("{layer}.{name}.{projection}"), width, inner, false);
            }
            shapes.linear(&format!("{layer}.{name}.o"), inner, width, false);
            // Only the first block of a stack owns its table of relative positions.
            if index == 0 && position == 0 {
                let numel = config.relative_attention_num_buckets * config.num_heads;
                shapes.push_param(
                    format!("{layer}.{name}.relative_attention_bias.weight"),
                    numel,
                    Part::Embedding,
                    false,
                );
            }
            shapes.norm(&format!("{layer}.layer_norm"), width, false);
        }
        let layer = format!("{block}.layer.{}", attentions.len());
        let inputs: &[&str] = if config.feed_forward_proj.starts_with("gated") {
            &["wi_0", "wi_1"]
        } else {
            &["wi"]
        };
        for name in inputs {
            shapes.linear(
                &format!("{layer}.DenseReluDense.{name}"),
                width,
                config.d_ff,
                false,
            );
        }
        shapes.linear(
            &format!("{layer}.DenseReluDense.wo"),
            config.d_ff,
            width,
            false,
        );
        shapes.norm(&format!("{layer}.layer_norm"), width, false);
    }
    shapes.norm(&format!("{stack}.final_layer_norm"), width, false);
}
