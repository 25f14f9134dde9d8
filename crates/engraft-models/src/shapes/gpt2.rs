//! GPT-2. Its `Conv1D` layers are linear layers stored as [d_in, d_out].

use engraft_core::{ModelShapes, Result};
use serde::Deserialize;
use serde_json::Value;

use super::build::Build;
use super::config::{Task, parse};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    tie_word_embeddings: Option<bool>,
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let width = config.n_embd;
    let inner = config.n_inner.unwrap_or(4 * width);
    let model = task.prefix("transformer");

    let mut shapes = ModelShapes::default();
    shapes.embedding(&format!("{model}wte"), config.vocab_size, width);
    shapes.embedding(&format!("{model}wpe"), config.n_positions, width);
    shapes.prompt_site(&model, width);
    for index in 0..config.n_layer {
        let block = format!("{model}h.{index}");
        shapes.block_sites(&block, &format!("{block}.attn"), width, width);
        shapes.norm(&format!("{block}.ln_1"), width, true);
        shapes.linear(&format!("{block}.attn.c_attn"), width, 3 * width, true);
        shapes.linear(&format!("{block}.attn.c_proj"), width, width, true);
        shapes.norm(&format!("{block}.ln_2"), width, true);
        shapes.linear(&format!("{block}.mlp.c_fc"), width, inner, true);
        shapes.linear(&format!("{block}.mlp.c_proj"), inner, width, true);
    }
    shapes.norm(&format!("{model}ln_f"), width, true);
    // The output layer of the language model is the token embedding, unless it is said not to be.
    match task {
        Task::Classification(labels) => shapes.output("score", width, *labels, false),
        Task::Tokens(labels) => shapes.output("classifier", width, *labels, true),
        Task::Language if config.tie_word_embeddings == Some(false) => {
            shapes.output("lm_head", width, config.vocab_size, false);
        }
        Task::Language => {
            let size = [width, config.vocab_size];
            shapes.push_tied("lm_head", &format!("{model}wte"), size, false);
        }
        _ => {}
    }
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use crate::shapes::from_config_json;

    #[test]
    fn a_small_gpt2_as_transformers_writes_it() {
        let config = r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_inner": null,
            "n_layer": 2, "n_positions": 64, "vocab_size": 97}"#;
        let shapes = from_config_json(config).unwrap();
        assert_eq!(shapes.total(), 30_624);
        assert_eq!(shapes.layers[2].path, "transformer.h.0.attn.c_attn");
        assert_eq!(shapes.layers[2].d_out, 96);
        assert_eq!(shapes.head(), 0);
    }
}
