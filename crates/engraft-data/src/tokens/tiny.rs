//! A tokenizer for models that are trained from scratch on generated text.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// What a tiny tokenizer takes for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splitting {
    /// What stands between white space.
    Words,
    /// Every character, white space included.
    Characters,
}

/// The special tokens around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// `[BOS] text`.
    Causal,
    /// `[CLS] text [SEP]` and `[CLS] first [SEP] second [SEP]`, the second in segment 1.
    Encoder,
}

const SPECIAL: [&str; 7] = [
    "[PAD]", "[UNK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[MASK]",
];

/// The text of a `tokenizer.json` whose vocabulary are the tokens of `texts`, in alphabetical order
/// after `[PAD]`, `[UNK]`, `[BOS]`, `[EOS]`, `[CLS]`, `[SEP]` and `[MASK]`. Other tokens are `[UNK]`.
pub fn tiny_tokenizer<'a>(
    splitting: Splitting,
    wrapping: Wrapping,
    texts: impl IntoIterator<Item = &'a str>,
) -> String {
    let mut found = BTreeSet::new();
    for text in texts {
        match splitting {
            Splitting::Words => found.extend(text.split_whitespace().map(str::to_owned)),
            Splitting::Characters => found.extend(text.chars().map(String::from)),
        }
    }
    let tokens = found
        .iter()
        .map(String::as_str)
        .filter(|token| !SPECIAL.contains(token));
    let vocabulary: serde_json::Map<String, Value> = SPECIAL
        .into_iter()
        .chain(tokens)
        .zip(0u32..)
        .map(|(token, id)| (token.to_owned(), id.into()))
        .collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .zip(0u32..)
        .map(|(token, id)| added(token, id))
        .collect();
    let (split, decoder) = match splitting {
        Splitting::Words => (json!({"type": "WhitespaceSplit"}), Value::Null),
        Splitting::Characters => (
            json!({"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false}),
            json!({"type": "Fuse"}),
        ),
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": split,
        "post_processor": template(wrapping),
        "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    serde_json::to_string_pretty(&tokenizer).expect("plain data")
}

fn added(token: &str, id: u32) -> Value {
    json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

fn template(wrapping: Wrapping) -> Value {
    let special =
        |name: &str, segment: u32| json!({"SpecialToken": {"id": name, "type_id": segment}});
    let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let (single, pair) = match wrapping {
        Wrapping::Causal => (
            vec![special("[BOS]", 0), text("A", 0)],
            vec![special("[BOS]", 0), text("A", 0), text("B", 0)],
        ),
        Wrapping::Encoder => (
            vec![special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
            vec![
                special("[CLS]", 0),
                text("A", 0),
                special("[SEP]", 0),
                text("B", 1),
                special("[SEP]", 1),
            ],
        ),
    };
    let tokens: serde_json::Map<String, Value> = SPECIAL
        .iter()
        .zip(0u32..)
        .map(|(name, id)| {
            (
                (*name).to_owned(),
                json!({"id": name, "ids": [id], "tokens": [name]}),
            )
        })
        .collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}
