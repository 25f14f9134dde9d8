//! The vision transformer in Hugging Face's layout, with the names that transformers 5 has in memory; its
//! files have older ones.

use engraft_core::{LayerKind, ModelShapes, Part, Result, SiteKind};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    image_size: Sides,
    patch_size: Sides,
    num_channels: usize,
    #[serde(default = "yes")]
    qkv_bias: bool,
    pooler_output_size: Option<usize>,
}

/// Height and width, given as one number where they are the same.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(crate) enum Sides {
    Square(usize),
    Both([usize; 2]),
}

impl Sides {
    /// Height and width.
    pub fn both(self) -> [usize; 2] {
        match self {
            Self::Square(side) => [side; 2],
            Self::Both(sides) => sides,
        }
    }
}

fn yes() -> bool {
    true
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.hidden_size;
    let (image, patch) = (config.image_size.both(), config.patch_size.both());
    let tokens = 1 + (image[0] / patch[0].max(1)) * (image[1] / patch[1].max(1));
    let model = task.prefix("vit");

    let mut shapes = ModelShapes::default();
    let embeddings = format!("{model}embeddings");
    let projection = format!("{embeddings}.patch_embeddings.projection");
    shapes.push_param(
        format!("{embeddings}.cls_token"),
        width,
        Part::Embedding,
        false,
    );
    shapes.push_param(
        format!("{embeddings}.position_embeddings"),
        tokens * width,
        Part::Embedding,
        false,
    );
    let d_in = config.num_channels * patch[0] * patch[1];
    shapes.push_linear(&projection, d_in, width, true, Part::Embedding);
    shapes.layers[0].kind = LayerKind::Conv2d { kernel: patch };
    shapes.push_site(
        format!("{embeddings}.patch_embeddings.output"),
        SiteKind::Hidden,
        width,
    );
    shapes.push_fold(
        format!("{embeddings}.patch_embeddings.output"),
        ["weight", "bias"]
            .map(|name| format!("{projection}.{name}"))
            .to_vec(),
        Some(format!("{projection}.bias")),
    );
    for index in 0..config.num_hidden_layers {
        let block = format!("{model}layers.{index}");
        let attention = format!("{block}.attention");
        shapes.block_sites(&block, &attention, width, width);
        shapes.norm(&format!("{block}.layernorm_before"), width, true);
        for name in ["q_proj", "k_proj", "v_proj"] {
            let path = format!("{attention}.{name}");
            shapes.linear(&path, width, width, config.qkv_bias);
        }
        shapes.linear(&format!("{attention}.o_proj"), width, width, true);
        shapes.norm(&format!("{block}.layernorm_after"), width, true);
        let hidden = config.intermediate_size;
        shapes.linear(&format!("{block}.mlp.fc1"), width, hidden, true);
        shapes.linear(&format!("{block}.mlp.fc2"), hidden, width, true);
    }
    shapes.norm(&format!("{model}layernorm"), width, true);
    match task {
        Task::Bare => {
            let pooled = config.pooler_output_size.unwrap_or(width);
            shapes.linear("pooler.dense", width, pooled, true);
        }
        Task::Classification(labels) => shapes.output("classifier", width, *labels, true),
        _ => {}
    }
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use crate::shapes::from_config_json;

    #[test]
    fn a_small_vit_as_transformers_writes_it() {
        let config = r#"{"architectures": ["ViTModel"], "hidden_size": 32, "image_size": 16, "intermediate_size": 64, "model_type": "vit",
            "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 2, "patch_size": 4, "qkv_bias": true}"#;
        let shapes = from_config_json(config).unwrap();
        assert_eq!(shapes.total(), 20_352);
        assert_eq!(
            shapes.layers[0].path,
            "embeddings.patch_embeddings.projection"
        );
        assert_eq!(shapes.layers[1].path, "layers.0.attention.q_proj");
    }
}
