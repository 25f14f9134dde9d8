//! OPT.

use engraft_core::{ModelShapes, Result};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

/// Positions start behind the padding and unknown tokens.
const POSITION_OFFSET: usize = 2;

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    ffn_dim: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    word_embed_proj_dim: Option<usize>,
    #[serde(default = "yes")]
    do_layer_norm_before: bool,
}

fn yes() -> bool {
    true
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.hidden_size;
    let embedded = config.word_embed_proj_dim.unwrap_or(width);
    let model = format!("{}decoder", task.prefix("model"));

    let mut shapes = ModelShapes::default();
    shapes.embedding(
        &format!("{model}.embed_tokens"),
        config.vocab_size,
        embedded,
    );
    shapes.embedding(
        &format!("{model}.embed_positions"),
        config.max_position_embeddings + POSITION_OFFSET,
        width,
    );
    if embedded != width {
        shapes.linear(&format!("{model}.project_out"), width, embedded, false);
        shapes.linear(&format!("{model}.project_in"), embedded, width, false);
    }
    if config.do_layer_norm_before {
        shapes.norm(&format!("{model}.final_layer_norm"), width, true);
    }
    for index in 0..config.num_hidden_layers {
        let block = format!("{model}.layers.{index}");
        let attention = format!("{block}.self_attn");
        shapes.block_sites(&block, &attention, width, width);
        for name in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            shapes.linear(&format!("{attention}.{name}"), width, width, true);
        }
        shapes.norm(&format!("{block}.self_attn_layer_norm"), width, true);
        shapes.linear(&format!("{block}.fc1"), width, config.ffn_dim, true);
        shapes.linear(&format!("{block}.fc2"), config.ffn_dim, width, true);
        shapes.norm(&format!("{block}.final_layer_norm"), width, true);
    }
    // The output layer of the language model is the token embedding.
    if let Task::Classification(labels) = task {
        shapes.output("score", embedded, *labels, false);
    }
    Ok(shapes)
}
