//! Special tokens, by the names that a model's directory or custom gives them.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{DataError, Result};
use crate::tokens::{Side, Tokens};

/// Ids of special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Special {
    /// What batches are padded with: the padding token, else the end token, else 0. It is masked.
    pub pad: u32,
    /// The beginning of a text.
    pub bos: Option<u32>,
    /// The end of a text.
    pub eos: Option<u32>,
    /// What stands for a word to guess.
    pub mask: Option<u32>,
    /// All tokens marked as special.
    pub all: BTreeSet<u32>,
}

const PAD: &[&str] = &["[PAD]", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>"];
const BOS: &[&str] = &["[BOS]", "<s>", "<|begin_of_text|>", "<bos>"];
const EOS: &[&str] = &["[EOS]", "</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"];
const MASK: &[&str] = &["[MASK]", "<mask>"];

impl Special {
    pub(super) fn by_usual_names(tokenizer: &Tokenizer) -> Self {
        let find = |names: &[&str]| names.iter().find_map(|name| tokenizer.token_to_id(name));
        let added = tokenizer.get_added_tokens_decoder();
        let all = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| *id)
            .collect();
        let eos = find(EOS);
        Self {
            pad: find(PAD).or(eos).unwrap_or(0),
            bos: find(BOS),
            eos,
            mask: find(MASK),
            all,
        }
    }
}

/// Applies what the files of a directory say, those that are there: first `config.json`, over it
/// `special_tokens_map.json`, over it `tokenizer_config.json`.
pub(super) fn read_directory(tokens: &mut Tokens, directory: &Path) -> Result<()> {
    let (mut pad, mut bos, mut eos, mut mask) = (None, None, None, None);
    for name in [
        "config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    ] {
        let path = directory.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(DataError::Io { path, source }),
        };
        let fail = |reason: String| DataError::File {
            path: path.clone(),
            reason,
        };
        let json: Value = serde_json::from_str(&text)
            .map_err(|error| fail(format!("not valid JSON: {error}")))?;
        for (role, id) in [
            ("pad", &mut pad),
            ("bos", &mut bos),
            ("eos", &mut eos),
            ("mask", &mut mask),
        ] {
            let number = id_of(&json[format!("{role}_token_id")]);
            *id = name_of(&json[format!("{role}_token")])
                .and_then(|name| tokens.id(name))
                .or(number.filter(|id| tokens.token(*id).is_some()))
                .or(*id);
        }
        if let Some(kinds) = json["type_vocab_size"].as_u64() {
            tokens.segments = kinds > 1;
        }
        if name != "tokenizer_config.json" {
            continue;
        }
        for (key, side) in [
            ("padding_side", &mut tokens.padding),
            ("truncation_side", &mut tokens.truncation),
        ] {
            *side = match &json[key] {
                Value::Null => *side,
                Value::String(name) if name == "left" => Side::Left,
                Value::String(name) if name == "right" => Side::Right,
                other => {
                    return Err(fail(format!(
                        "{key}: found {other}, expected left or right"
                    )));
                }
            };
        }
        // Where there is no limit, the files hold a number of 31 digits.
        tokens.max_length = json["model_max_length"]
            .as_u64()
            .filter(|max| *max < 1 << 32)
            .map(|max| max as usize);
    }
    let special = &mut tokens.special;
    let own_pad = PAD
        .iter()
        .any(|name| tokens.inner.token_to_id(name) == Some(special.pad));
    special.bos = bos.or(special.bos);
    special.eos = eos.or(special.eos);
    special.mask = mask.or(special.mask);
    special.pad = match (pad, own_pad, special.eos) {
        (Some(pad), ..) => pad,
        (None, false, Some(eos)) => eos,
        _ => special.pad,
    };
    special
        .all
        .extend([bos, eos, mask, pad].into_iter().flatten());
    Ok(())
}

fn name_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// Some models have a list of end tokens: the first one is that of plain text.
fn id_of(value: &Value) -> Option<u32> {
    let value = value.get(0).unwrap_or(value);
    u32::try_from(value.as_u64()?).ok()
}
