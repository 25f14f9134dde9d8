//! The vision tower of CLIP with its projection into the joint space.

use engraft_core::{ModelShapes, Part, Result};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    image_size: usize,
    patch_size: usize,
    #[serde(default = "colours")]
    num_channels: usize,
    projection_dim: usize,
}

fn colours() -> usize {
    3
}

pub(super) fn shapes(config: &Value, _: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.hidden_size;
    let tokens = 1 + (config.image_size / config.patch_size.max(1)).pow(2);

    let mut shapes = ModelShapes::default();
    let patch = config.num_channels * config.patch_size.pow(2);
    for (name, numel) in [
        ("class_embedding", width),
        ("patch_embedding.weight", patch * width),
        ("position_embedding.weight", tokens * width),
    ] {
        let path = format!("vision_model.embeddings.{name}");
        shapes.push_param(path, numel, Part::Embedding, false);
    }
    // The missing `e` is Hugging Face's.
    shapes.norm("vision_model.pre_layrnorm", width, true);
    for index in 0..config.num_hidden_layers {
        let block = format!("vision_model.encoder.layers.{index}");
        let attention = format!("{block}.self_attn");
        shapes.block_sites(&block, &attention, width, width);
        for name in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            shapes.linear(&format!("{attention}.{name}"), width, width, true);
        }
        shapes.norm(&format!("{block}.layer_norm1"), width, true);
        let inner = config.intermediate_size;
        shapes.linear(&format!("{block}.mlp.fc1"), width, inner, true);
        shapes.linear(&format!("{block}.mlp.fc2"), inner, width, true);
        shapes.norm(&format!("{block}.layer_norm2"), width, true);
    }
    shapes.norm("vision_model.post_layernorm", width, true);
    shapes.output("visual_projection", width, config.projection_dim, false);
    Ok(shapes)
}
