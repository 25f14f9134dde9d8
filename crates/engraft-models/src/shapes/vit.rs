//! The vision transformer in Hugging Face's layout.

use engraft_core::{ModelShapes, Part, Result, SiteKind};
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
    num_channels: usize,
    #[serde(default = "yes")]
    qkv_bias: bool,
}

fn yes() -> bool {
    true
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.hidden_size;
    let tokens = 1 + (config.image_size / config.patch_size.max(1)).pow(2);
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
    shapes.push_param(
        format!("{projection}.weight"),
        config.num_channels * config.patch_size.pow(2) * width,
        Part::Embedding,
        false,
    );
    shapes.push_param(format!("{projection}.bias"), width, Part::Embedding, true);
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
        let block = format!("{model}encoder.layer.{index}");
        let attention = format!("{block}.attention.attention");
        shapes.block_sites(&block, &attention, width, width);
        shapes.norm(&format!("{block}.layernorm_before"), width, true);
        for name in ["query", "key", "value"] {
            shapes.linear(
                &format!("{attention}.{name}"),
                width,
                width,
                config.qkv_bias,
            );
        }
        shapes.linear(
            &format!("{block}.attention.output.dense"),
            width,
            width,
            true,
        );
        shapes.norm(&format!("{block}.layernorm_after"), width, true);
        shapes.linear(
            &format!("{block}.intermediate.dense"),
            width,
            config.intermediate_size,
            true,
        );
        shapes.linear(
            &format!("{block}.output.dense"),
            config.intermediate_size,
            width,
            true,
        );
    }
    shapes.norm(&format!("{model}layernorm"), width, true);
    match task {
        Task::Bare => shapes.linear("pooler.dense", width, width, true),
        Task::Classification(labels) => shapes.output("classifier", width, *labels, true),
        Task::Language | Task::Other => {}
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
            "encoder.layer.0.attention.attention.query"
        );
    }
}
