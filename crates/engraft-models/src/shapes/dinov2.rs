//! DINOv2: a vision transformer whose sublayers have learned scales.

use engraft_core::{ModelShapes, Part, Result};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    #[serde(default = "four")]
    mlp_ratio: usize,
    num_hidden_layers: usize,
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
}

fn four() -> usize {
    4
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.hidden_size;
    let tokens = 1 + (config.image_size / config.patch_size.max(1)).pow(2);
    let patch = config.num_channels * config.patch_size.pow(2);
    let model = task.prefix("dinov2");

    let mut shapes = ModelShapes::default();
    for (name, numel, bias) in [
        ("cls_token", width, false),
        ("mask_token", width, false),
        ("position_embeddings", tokens * width, false),
        ("patch_embeddings.projection.weight", patch * width, false),
        ("patch_embeddings.projection.bias", width, true),
    ] {
        let path = format!("{model}embeddings.{name}");
        shapes.push_param(path, numel, Part::Embedding, bias);
    }
    for index in 0..config.num_hidden_layers {
        let block = format!("{model}encoder.layer.{index}");
        let attention = format!("{block}.attention.attention");
        shapes.block_sites(&block, &attention, width, width);
        shapes.norm(&format!("{block}.norm1"), width, true);
        for name in ["query", "key", "value"] {
            shapes.linear(&format!("{attention}.{name}"), width, width, true);
        }
        let output = format!("{block}.attention.output.dense");
        shapes.linear(&output, width, width, true);
        shapes.norm(&format!("{block}.norm2"), width, true);
        let inner = config.mlp_ratio * width;
        shapes.linear(&format!("{block}.mlp.fc1"), width, inner, true);
        shapes.linear(&format!("{block}.mlp.fc2"), inner, width, true);
        for scale in ["layer_scale1.lambda1", "layer_scale2.lambda1"] {
            shapes.push_param(format!("{block}.{scale}"), width, Part::Body, false);
        }
    }
    shapes.norm(&format!("{model}layernorm"), width, true);
    // The head reads the class token beside the mean of the patches.
    if let Task::Classification(labels) = task {
        shapes.output("classifier", 2 * width, *labels, true);
    }
    Ok(shapes)
}
