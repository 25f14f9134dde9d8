//! Llama and its relatives: Mistral, Qwen2, Qwen3, Gemma, Gemma 2.

use engraft_core::{ModelShapes, Result};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.hidden_size;
    let head = config
        .head_dim
        .unwrap_or(width / config.num_attention_heads.max(1));
    let query = head * config.num_attention_heads;
    let key_value = head
        * config
            .num_key_value_heads
            .unwrap_or(config.num_attention_heads);
    let is = |name: &str| config.model_type == name;
    // Transformers looks at these keys in some of the family only.
    let attention_bias = config.attention_bias && !is("mistral");
    let (qkv_bias, output_bias) = (
        attention_bias || is("qwen2"),
        attention_bias && !is("qwen2"),
    );
    let mlp_bias = config.mlp_bias && is("llama");

    let mut shapes = ModelShapes::default();
    // A bare `LlamaModel` has no prefix.
    let model = task.prefix("model");
    shapes.embedding(&format!("{model}embed_tokens"), config.vocab_size, width);
    shapes.prompt_site(&model, width);
    for index in 0..config.num_hidden_layers {
        let block = format!("{model}layers.{index}");
        let attention = format!("{block}.self_attn");
        shapes.attention_sites(&block, &attention, width, key_value);
        if is("qwen3") {
            shapes.norm(&format!("{attention}.q_norm"), head, false);
            shapes.norm(&format!("{attention}.k_norm"), head, false);
        }
        shapes.sublayer_sites(&block, width);
        shapes.norm(&format!("{block}.input_layernorm"), width, false);
        shapes.linear(&format!("{attention}.q_proj"), width, query, qkv_bias);
        shapes.linear(&format!("{attention}.k_proj"), width, key_value, qkv_bias);
        shapes.linear(&format!("{attention}.v_proj"), width, key_value, qkv_bias);
        shapes.linear(&format!("{attention}.o_proj"), query, width, output_bias);
        shapes.norm(&format!("{block}.post_attention_layernorm"), width, false);
        if is("gemma2") {
            shapes.norm(&format!("{block}.pre_feedforward_layernorm"), width, false);
        }
        shapes.linear(
            &format!("{block}.mlp.gate_proj"),
            width,
            config.intermediate_size,
            mlp_bias,
        );
        shapes.linear(
            &format!("{block}.mlp.up_proj"),
            width,
            config.intermediate_size,
            mlp_bias,
        );
        shapes.linear(
            &format!("{block}.mlp.down_proj"),
            config.intermediate_size,
            width,
            mlp_bias,
        );
        if is("gemma2") {
            shapes.norm(&format!("{block}.post_feedforward_layernorm"), width, false);
        }
    }
    shapes.norm(&format!("{model}norm"), width, false);
    if is("gemma") || is("gemma2") {
        // Their gain is 1 + weight: scaling the weight does not scale it.
        shapes.folds.clear();
    }

    let tied = config
        .tie_word_embeddings
        .unwrap_or(is("gemma") || is("gemma2"));
    match task {
        Task::Classification(labels) => shapes.output("score", width, *labels, false),
        Task::Tokens(labels) => shapes.output("score", width, *labels, true),
        Task::Language if !tied => shapes.output("lm_head", width, config.vocab_size, false),
        Task::Language => {
            let size = [width, config.vocab_size];
            shapes.push_tied("lm_head", &format!("{model}embed_tokens"), size, false);
        }
        _ => {}
    }
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use engraft_core::LayerKind;

    use crate::shapes::from_config_json;

    #[test]
    fn a_small_llama_as_transformers_writes_it() {
        let config = r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 8, "hidden_act": "silu",
            "hidden_size": 32, "intermediate_size": 64, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 4,
            "num_hidden_layers": 2, "num_key_value_heads": 2, "tie_word_embeddings": false, "vocab_size": 97}"#;
        let shapes = from_config_json(config).unwrap();
        assert_eq!(shapes.total(), 24_800);
        assert_eq!(shapes.layers[2].path, "model.layers.0.self_attn.k_proj");
        assert_eq!((shapes.layers[2].d_in, shapes.layers[2].d_out), (32, 16));
        assert!(shapes.is_head("lm_head"));
        let embedding = &shapes.layers[0];
        assert_eq!((embedding.d_in, embedding.kind), (97, LayerKind::Embedding));
        assert!(!shapes.is_default_target(&embedding.path));
        let tied = from_config_json(&config.replace(
            "\"tie_word_embeddings\": false",
            "\"tie_word_embeddings\": true",
        ))
        .unwrap();
        assert_eq!(shapes.total() - tied.total(), 97 * 32);
    }
}
