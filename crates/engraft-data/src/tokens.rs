//! Tokenizers in Hugging Face layout: `tokenizer.json` and what a model's directory says about it.

mod special;
mod tiny;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::{
    Encoding, PostProcessor, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy,
};

use crate::error::{DataError, Result};
use crate::read::RowError;

pub use special::Special;
pub use tiny::{Splitting, Wrapping, tiny_tokenizer};

/// A side of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Before its first token.
    Left,
    /// After its last token.
    #[default]
    Right,
}

/// A tokenizer with its special tokens.
#[derive(Clone)]
pub struct Tokens {
    path: PathBuf,
    inner: Tokenizer,
    /// Ids of its special tokens.
    pub special: Special,
    /// Where batches are padded.
    pub padding: Side,
    /// From where long texts are cut.
    pub truncation: Side,
    /// Most tokens of a text, special ones included, if the directory names a number.
    pub max_length: Option<usize>,
    /// Whether the model tells the texts of a pair apart by segments. RoBERTa does not.
    pub segments: bool,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("path", &self.path)
            .field("size", &self.size())
            .finish()
    }
}

impl Tokens {
    /// The tokenizer of a model's directory: `tokenizer.json`, with the special tokens, sides and
    /// length that `tokenizer_config.json`, `special_tokens_map.json` and `config.json` name.
    /// Padding and truncation that are stored in `tokenizer.json` do not apply.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("tokenizer.json");
        let json = std::fs::read(&path).map_err(|source| DataError::Io {
            path: path.clone(),
            source,
        })?;
        let mut tokens = Self::from_json(path, &json)?;
        special::read_directory(&mut tokens, directory)?;
        Ok(tokens)
    }

    /// A tokenizer from the text of its `tokenizer.json`; `path` is for messages. Its special tokens
    /// are found by their usual names.
    ///
    /// # Errors
    /// Text that does not describe a tokenizer.
    pub fn from_json(path: impl Into<PathBuf>, json: &[u8]) -> Result<Self> {
        let path = path.into();
        let fail = |reason: String| DataError::Tokenizer {
            path: path.clone(),
            reason,
        };
        let mut inner = Tokenizer::from_bytes(json)
            .map_err(|error| fail(format!("not a tokenizer: {error}")))?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| fail(error.to_string()))?;
        let special = Special::by_usual_names(&inner);
        Ok(Self {
            path,
            inner,
            special,
            padding: Side::Right,
            truncation: Side::Right,
            max_length: None,
            segments: true,
        })
    }

    /// Ids that the tokenizer may give: its largest one and 1.
    pub fn size(&self) -> usize {
        self.inner
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1)
    }

    /// Checks that a model has an embedding for every token.
    ///
    /// # Errors
    /// [`DataError::Vocabulary`] with both sizes and the token with the largest id.
    pub fn check_vocabulary(&self, model: usize) -> Result<()> {
        let vocabulary = self.inner.get_vocab(true);
        match vocabulary.iter().max_by_key(|(_, id)| **id) {
            Some((token, &id)) if id as usize >= model => Err(DataError::Vocabulary {
                tokenizer: vocabulary.len(),
                model,
                token: token.clone(),
                id,
            }),
            _ => Ok(()),
        }
    }

    /// The same, cutting texts to `max` tokens, special ones included; of a pair, the longer text is
    /// cut first.
    ///
    /// # Errors
    /// A length that leaves no room beside the special tokens, or above [`max_length`](Self::max_length).
    pub fn cut_to(&self, max: usize) -> Result<Self> {
        let added = self
            .inner
            .get_post_processor()
            .map_or(0, |post| post.added_tokens(true));
        let most = self.max_length.unwrap_or(usize::MAX);
        if max <= added || max > most {
            let reason = match max > most {
                true => format!("found {max}, expected at most {most}, the tokenizer's own limit"),
                false => format!(
                    "found {max}, expected more than {added}, which special tokens take of a pair"
                ),
            };
            return Err(DataError::Setting {
                what: "max-length",
                reason,
            });
        }
        let mut cut = self.clone();
        let params = TruncationParams {
            max_length: max,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: match self.truncation {
                Side::Left => TruncationDirection::Left,
                Side::Right => TruncationDirection::Right,
            },
        };
        let set = cut.inner.with_truncation(Some(params)).map(|_| ());
        set.map_err(|error| DataError::Tokenizer {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        Ok(cut)
    }

    /// The most tokens of a text, if texts are cut.
    pub fn cut(&self) -> Option<usize> {
        self.inner.get_truncation().map(|params| params.max_length)
    }

    /// The ids of a text, special tokens included.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RowError> {
        Ok(self.text(text, true)?.get_ids().to_vec())
    }

    /// The ids of a text without special tokens.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>, RowError> {
        Ok(self.text(text, false)?.get_ids().to_vec())
    }

    pub(crate) fn text(&self, text: &str, special: bool) -> Result<Encoding, RowError> {
        self.inner.encode(text, special).map_err(refused)
    }

    pub(crate) fn pair(&self, first: &str, second: &str) -> Result<Encoding, RowError> {
        let mut pair = self.inner.encode((first, second), true).map_err(refused)?;
        if !self.segments {
            let tokens = pair.len();
            pair.set_type_ids(vec![0; tokens]);
        }
        Ok(pair)
    }

    /// A text that is divided into words already.
    pub(crate) fn words(&self, words: &[String]) -> Result<Encoding, RowError> {
        self.inner.encode(words, true).map_err(refused)
    }

    /// The text of ids, without special tokens.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn decode(&self, ids: &[u32]) -> Result<String, RowError> {
        self.inner.decode(ids, true).map_err(refused)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Where the tokenizer comes from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error of this tokenizer.
    pub(crate) fn lacks(&self, reason: &str) -> DataError {
        DataError::Tokenizer {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

fn refused(error: tokenizers::Error) -> RowError {
    RowError::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(wrapping: Wrapping) -> Tokens {
        let json = tiny_tokenizer(Splitting::Words, wrapping, ["a b c d e f g h"]);
        Tokens::from_json("tiny", json.as_bytes()).unwrap()
    }

    #[test]
    fn pairs_are_cut_longest_first_and_lengths_are_checked() {
        let tokens = tokens(Wrapping::Encoder);
        let cut = tokens.cut_to(8).unwrap();
        let pair = cut.pair("a b c d e", "f g").unwrap();
        assert_eq!(
            pair.get_tokens(),
            ["[CLS]", "a", "b", "c", "[SEP]", "f", "g", "[SEP]"]
        );
        assert_eq!(pair.get_type_ids(), [0, 0, 0, 0, 0, 1, 1, 1]);
        assert!(!pair.get_overflowing().is_empty());
        let one_segment = Tokens {
            segments: false,
            ..cut.clone()
        };
        let pair = one_segment.pair("a b", "f").unwrap();
        assert_eq!(pair.get_type_ids(), [0; 6]);
        let left = Tokens {
            truncation: Side::Left,
            ..tokens.clone()
        }
        .cut_to(4)
        .unwrap();
        assert_eq!(
            left.text("a b c d", true).unwrap().get_tokens(),
            ["[CLS]", "c", "d", "[SEP]"]
        );
        let message = tokens.cut_to(3).unwrap_err().to_string();
        assert!(
            message.contains("found 3, expected more than 3"),
            "{message}"
        );
        let limited = Tokens {
            max_length: Some(10),
            ..tokens
        };
        assert!(
            limited
                .cut_to(11)
                .unwrap_err()
                .to_string()
                .contains("at most 10")
        );
    }

    #[test]
    fn a_small_vocabulary_is_an_error_that_names_a_token() {
        let tokens = tokens(Wrapping::Causal);
        let size = tokens.size();
        assert!(tokens.check_vocabulary(size).is_ok());
        let message = tokens.check_vocabulary(size - 1).unwrap_err().to_string();
        let last = tokens.token(size as u32 - 1).unwrap();
        assert!(message.contains(&format!("has {size} tokens")), "{message}");
        assert!(
            message.contains(&format!("vocabulary {}: token {last:?}", size - 1)),
            "{message}"
        );
    }

    #[test]
    fn files_of_a_directory_are_read_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        assert!(matches!(
            Tokens::load(directory.path()),
            Err(DataError::Io { .. })
        ));
        write("tokenizer.json", "{\"version\": \"1.0\"}");
        let message = Tokens::load(directory.path()).unwrap_err().to_string();
        assert!(message.contains("not a tokenizer"), "{message}");

        write(
            "tokenizer.json",
            &tiny_tokenizer(Splitting::Words, Wrapping::Encoder, ["a b"]),
        );
        write(
            "tokenizer_config.json",
            r#"{"pad_token": {"content": "b"}, "eos_token": "a", "mask_token": null,
                "padding_side": "left", "model_max_length": 1000000000000000019884624838656}"#,
        );
        let tokens = Tokens::load(directory.path()).unwrap();
        assert_eq!(tokens.special.pad, tokens.id("b").unwrap());
        assert_eq!(tokens.special.eos, tokens.id("a"));
        assert_eq!((tokens.padding, tokens.max_length), (Side::Left, None));
        write(
            "tokenizer_config.json",
            r#"{"padding_side": "up", "model_max_length": 512}"#,
        );
        assert!(
            Tokens::load(directory.path())
                .unwrap_err()
                .to_string()
                .contains("padding_side")
        );
        write("tokenizer_config.json", r#"{"model_max_length": 512}"#);
        assert_eq!(
            Tokens::load(directory.path()).unwrap().max_length,
            Some(512)
        );
    }

    #[test]
    fn text_survives_encoding() {
        for splitting in [Splitting::Words, Splitting::Characters] {
            let json = tiny_tokenizer(splitting, Wrapping::Causal, ["12 + 7 = 19\nso é"]);
            let tokens = Tokens::from_json("tiny", json.as_bytes()).unwrap();
            let text = "7 + 12 = 19 so é";
            let ids = tokens.encode(text).unwrap();
            assert_eq!(ids[0], tokens.special.bos.unwrap());
            assert_eq!(tokens.decode(&ids).unwrap(), text);
            assert_eq!(tokens.encode_bare(text).unwrap(), ids[1..]);
            let unknown = tokens.encode_bare("?").unwrap();
            assert_eq!(unknown, [tokens.id("[UNK]").unwrap()]);
        }
    }
}
