//! BLOOM, whose queries, keys and values come from one linear layer.

use engraft_core::{ModelShapes, Result};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    n_layer: usize,
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.hidden_size;
    let model = task.prefix("transformer");

    let mut shapes = ModelShapes::default();
    let words = format!("{model}word_embeddings");
    shapes.embedding(&words, config.vocab_size, width);
    shapes.prompt_site(&model, width);
    shapes.norm(&format!("{words}_layernorm"), width, true);
    for index in 0..config.n_layer {
        let block = format!("{model}h.{index}");
        let attention = format!("{block}.self_attention");
        shapes.block_sites(&block, &attention, width, width);
        shapes.norm(&format!("{block}.input_layernorm"), width, true);
        let joint = format!("{attention}.query_key_value");
        shapes.linear(&joint, width, 3 * width, true);
        shapes.linear(&format!("{attention}.dense"), width, width, true);
        shapes.norm(&format!("{block}.post_attention_layernorm"), width, true);
        let mlp = format!("{block}.mlp");
        shapes.linear(&format!("{mlp}.dense_h_to_4h"), width, 4 * width, true);
        shapes.linear(&format!("{mlp}.dense_4h_to_h"), 4 * width, width, true);
    }
    shapes.norm(&format!("{model}ln_f"), width, true);
    // The output layer of the language model is the token embedding.
    if let Task::Classification(labels) = task {
        shapes.output("score", width, *labels, false);
    }
    Ok(shapes)
}
