//! BERT, RoBERTa, XLM-R and DeBERTa-v2/v3.

use engraft_core::{LayerKind, ModelShapes, Part, Result};
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
    max_position_embeddings: usize,
    type_vocab_size: usize,
    /// DeBERTa: whether absolute positions are embedded.
    #[serde(default = "yes")]
    position_biased_input: bool,
    /// DeBERTa: whether positions share the projections of contents.
    #[serde(default = "yes")]
    share_att_key: bool,
    /// DeBERTa: relative positions are put into so many buckets on either side.
    position_buckets: Option<usize>,
    tie_word_embeddings: Option<bool>,
    /// DeBERTa: taps of the convolution beside the first block, none if 0.
    #[serde(default)]
    conv_kernel_size: usize,
}

fn yes() -> bool {
    true
}

pub(super) fn shapes(config: &Value, task: &Task) -> Result<ModelShapes> {
    let config: Config = parse(config)?;
    let deberta = config.model_type == "deberta-v2";
    let width = config.hidden_size;
    let model = task.prefix(match config.model_type.as_str() {
        "bert" => "bert",
        "deberta-v2" => "deberta",
        _ => "roberta",
    });

    let mut shapes = ModelShapes::default();
    let embeddings = format!("{model}embeddings");
    shapes.prompt_site(&model, width);
    shapes.embedding(
        &format!("{embeddings}.word_embeddings"),
        config.vocab_size,
        width,
    );
    if config.position_biased_input {
        shapes.embedding(
            &format!("{embeddings}.position_embeddings"),
            config.max_position_embeddings,
            width,
        );
    }
    if config.type_vocab_size > 0 {
        shapes.embedding(
            &format!("{embeddings}.token_type_embeddings"),
            config.type_vocab_size,
            width,
        );
    }
    shapes.norm(&format!("{embeddings}.LayerNorm"), width, true);

    for index in 0..config.num_hidden_layers {
        let block = format!("{model}encoder.layer.{index}");
        let attention = format!("{block}.attention.self");
        let names: &[&str] = match (deberta, config.share_att_key) {
            (false, _) => &["query", "key", "value"],
            (true, true) => &["query_proj", "key_proj", "value_proj"],
            (true, false) => &[
                "query_proj",
                "key_proj",
                "value_proj",
                "pos_key_proj",
                "pos_query_proj",
            ],
        };
        shapes.block_sites(&block, &attention, width, width);
        for name in names {
            shapes.linear(&format!("{attention}.{name}"), width, width, true);
        }
        shapes.linear(
            &format!("{block}.attention.output.dense"),
            width,
            width,
            true,
        );
        shapes.norm(&format!("{block}.attention.output.LayerNorm"), width, true);
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
        shapes.norm(&format!("{block}.output.LayerNorm"), width, true);
    }

    if deberta {
        let buckets = config
            .position_buckets
            .unwrap_or(config.max_position_embeddings);
        shapes.embedding(
            &format!("{model}encoder.rel_embeddings"),
            2 * buckets,
            width,
        );
        shapes.norm(&format!("{model}encoder.LayerNorm"), width, true);
        if config.conv_kernel_size > 0 {
            let conv = format!("{model}encoder.conv");
            shapes.push_param(
                format!("{conv}.conv.weight"),
                config.conv_kernel_size * width * width,
                Part::Body,
                false,
            );
            shapes.push_param(format!("{conv}.conv.bias"), width, Part::Body, true);
            shapes.norm(&format!("{conv}.LayerNorm"), width, true);
        }
    }
    push_top(&mut shapes, &config, &model, *task);
    Ok(shapes)
}

/// Pooler and head, which each of the three arranges in its own way.
fn push_top(shapes: &mut ModelShapes, config: &Config, model: &str, task: Task) {
    let width = config.hidden_size;
    let family = config.model_type.as_str();
    match (family, task) {
        ("bert" | "roberta" | "xlm-roberta", Task::Bare) => {
            shapes.linear("pooler.dense", width, width, true)
        }
        ("bert", Task::Classification(labels)) => {
            shapes.linear(&format!("{model}pooler.dense"), width, width, true);
            shapes.output("classifier", width, labels, true);
        }
        ("deberta-v2", Task::Classification(labels)) => {
            shapes.output("pooler.dense", width, width, true);
            shapes.output("classifier", width, labels, true);
        }
        (_, Task::Classification(labels)) => {
            shapes.output("classifier.dense", width, width, true);
            shapes.output("classifier.out_proj", width, labels, true);
        }
        (_, Task::Tokens(labels)) => shapes.output("classifier", width, labels, true),
        ("bert", Task::MaskedLanguage) => {
            let head = "cls.predictions";
            let [dense, norm] =
                ["dense", "LayerNorm"].map(|name| format!("{head}.transform.{name}"));
            push_language(shapes, config, head, &dense, &norm);
        }
        ("roberta" | "xlm-roberta", Task::MaskedLanguage) => {
            push_language(
                shapes,
                config,
                "lm_head",
                "lm_head.dense",
                "lm_head.layer_norm",
            );
        }
        _ => {}
    }
}

/// The head of masked language modelling. Its output layer is the table of word embeddings and an
/// offset, unless it is untied.
fn push_language(shapes: &mut ModelShapes, config: &Config, head: &str, dense: &str, norm: &str) {
    let (width, vocabulary) = (config.hidden_size, config.vocab_size);
    shapes.linear(dense, width, width, true);
    shapes.norm(norm, width, true);
    let decoder = format!("{head}.decoder");
    if config.tie_word_embeddings.unwrap_or(true) {
        shapes.push_param(format!("{head}.bias"), vocabulary, Part::Head, true);
        let words = shapes
            .layers
            .iter()
            .find(|layer| layer.kind == LayerKind::Embedding);
        let words = words.expect("pushed before").path.clone();
        shapes.push_tied(&decoder, &words, [width, vocabulary], true);
    } else {
        shapes.output(&decoder, width, vocabulary, true);
    }
}

#[cfg(test)]
mod tests {
    use crate::shapes::from_config_json;

    const ROBERTA: &str = r#"{"architectures": ["RobertaModel"], "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 40,
        "model_type": "roberta", "num_attention_heads": 4, "num_hidden_layers": 2, "type_vocab_size": 1, "vocab_size": 97}"#;

    #[test]
    fn a_small_roberta_as_transformers_writes_it() {
        let bare = from_config_json(ROBERTA).unwrap();
        assert_eq!(bare.total(), 22_624);
        assert_eq!(bare.layers[0].path, "embeddings.word_embeddings");
        assert_eq!(bare.layers[3].path, "encoder.layer.0.attention.self.query");
        let classifier =
            from_config_json(&ROBERTA.replace("RobertaModel", "RobertaForSequenceClassification"))
                .unwrap();
        assert_eq!(
            classifier.layers[3].path,
            "roberta.encoder.layer.0.attention.self.query"
        );
        assert_eq!(classifier.head(), 32 * 32 + 32 + 2 * 32 + 2);
    }

    #[test]
    fn heads_of_tokens_and_of_masked_words() {
        let total = |config: String| from_config_json(&config).unwrap().total();
        let encoder = total(ROBERTA.to_owned()) - 32 * 33;
        let with = |class: &str| ROBERTA.replace("RobertaModel", class);
        assert_eq!(
            total(with("RobertaForTokenClassification")),
            encoder + 2 * 33
        );
        let masked = with("RobertaForMaskedLM");
        assert_eq!(total(masked.clone()), encoder + 32 * 33 + 64 + 97);
        let untied = masked.replace('{', "{\"tie_word_embeddings\": false, ");
        assert_eq!(total(untied), encoder + 32 * 33 + 64 + 97 * 33);
    }

    #[test]
    fn a_small_bert_counts_its_pooler_and_three_labels() {
        let config = ROBERTA
            .replace("RobertaModel", "BertForSequenceClassification")
            .replace("\"roberta\"", "\"bert\"");
        let config = config.replace(
            "\"type_vocab_size\": 1",
            "\"type_vocab_size\": 2, \"id2label\": {\"0\": \"a\", \"1\": \"b\", \"2\": \"c\"}",
        );
        let shapes = from_config_json(&config).unwrap();
        assert_eq!(shapes.total(), 22_624 + 32 + 3 * 32 + 3);
        assert_eq!(shapes.head(), 99);
    }
}
