//! `adapter_config.json`: as it is written, and as it is read key by key.

use std::fmt;

use engraft_tensor::suggestion;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Patterns in the order of the file: PEFT takes the first that matches.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Patterns(pub(crate) Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Patterns;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a table of patterns and numbers")
            }
            fn visit_unit<E>(self) -> Result<Patterns, E> {
                Ok(Patterns::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Patterns, A::Error> {
                let mut patterns = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    patterns.push(entry);
                }
                Ok(Patterns(patterns))
            }
        }
        deserializer.deserialize_any(Ordered)
    }
}

/// Numbers by pattern, or AdaLoRA's masks by parameter, or null where it has none.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RankPattern {
    Null(()),
    Numbers(Patterns),
    Masks(Map<String, Value>),
}

impl Default for RankPattern {
    fn default() -> Self {
        Self::Numbers(Patterns::default())
    }
}

/// The keys of the file.
#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    rank_pattern: RankPattern,
    #[serde(default)]
    alpha_pattern: Patterns,
    #[serde(default)]
    block_size_pattern: Option<Patterns>,
    #[serde(default)]
    n_frequency_pattern: Option<Patterns>,
    #[serde(flatten)]
    keys: Map<String, Value>,
}

/// A PEFT configuration as written by `save_pretrained`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "File")]
pub struct PeftConfig {
    /// Where it holds numbers; AdaLoRA's masks stay among the keys.
    pub(crate) rank_pattern: Patterns,
    pub(crate) alpha_pattern: Patterns,
    /// C3A's block sizes.
    pub(crate) block_size_pattern: Option<Patterns>,
    /// Numbers of coefficients of FourierFT and WaveFT.
    pub(crate) n_frequency_pattern: Option<Patterns>,
    pub(crate) keys: Map<String, Value>,
}

impl From<File> for PeftConfig {
    fn from(file: File) -> Self {
        let mut keys = file.keys;
        let rank_pattern = match file.rank_pattern {
            RankPattern::Numbers(patterns) => patterns,
            RankPattern::Null(()) => {
                keys.insert("rank_pattern".to_owned(), Value::Null);
                Patterns::default()
            }
            RankPattern::Masks(masks) => {
                keys.insert("rank_pattern".to_owned(), masks.into());
                Patterns::default()
            }
        };
        Self {
            rank_pattern,
            alpha_pattern: file.alpha_pattern,
            block_size_pattern: file.block_size_pattern,
            n_frequency_pattern: file.n_frequency_pattern,
            keys,
        }
    }
}

impl TryFrom<Value> for PeftConfig {
    type Error = Error;

    /// Patterns come in the order of the value's keys, which may be alphabetical; parse the text
    /// of the file where overlapping patterns matter.
    fn try_from(value: Value) -> Result<Self> {
        serde_json::from_value(value).map_err(|error| Error::config("", error))
    }
}

impl PeftConfig {
    /// The PEFT type, upper case; empty when the file has none.
    pub fn peft_type(&self) -> &str {
        self.keys
            .get("peft_type")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The configuration as JSON.
    pub fn to_json(&self) -> Value {
        let table = |patterns: &Patterns| {
            patterns
                .0
                .iter()
                .map(|(key, value)| (key.clone(), number(*value)))
                .collect::<Map<_, _>>()
        };
        let mut keys = self.keys.clone();
        for (key, patterns) in [
            ("rank_pattern", &self.rank_pattern),
            ("alpha_pattern", &self.alpha_pattern),
        ] {
            if !patterns.0.is_empty() {
                keys.insert(key.to_owned(), table(patterns).into());
            } else if let Some(empty) = crate::types::empty_pattern(self.peft_type(), key) {
                keys.entry(key).or_insert(empty);
            }
        }
        for (key, patterns) in [
            ("block_size_pattern", &self.block_size_pattern),
            ("n_frequency_pattern", &self.n_frequency_pattern),
        ] {
            if let Some(patterns) = patterns {
                keys.insert(key.to_owned(), table(patterns).into());
            }
        }
        Value::Object(keys)
    }
}

/// A number, without a fraction where it has none.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}

/// A configuration while it is read. Every key is asked for; what nobody asked for is judged by
/// [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct Reader {
    left: PeftConfig,
    targets: Value,
    known: Vec<&'static str>,
    warnings: Vec<String>,
    residual: bool,
}

impl Reader {
    pub(crate) fn new(config: &PeftConfig) -> Self {
        Self {
            left: config.clone(),
            targets: config
                .keys
                .get("target_modules")
                .cloned()
                .unwrap_or_default(),
            known: Vec::new(),
            warnings: Vec::new(),
            residual: false,
        }
    }

    /// The same for a model whose weights are the residual that the adapter's init left.
    pub(crate) fn on_residual(self, residual: bool) -> Self {
        Self { residual, ..self }
    }

    /// Whether the model's weights are the residual that the adapter's init left.
    pub(crate) fn is_on_residual(&self) -> bool {
        self.residual
    }

    /// The value of a key, if it is there and not null.
    pub(crate) fn find<T: DeserializeOwned>(&mut self, key: &'static str) -> Result<Option<T>> {
        self.known.push(key);
        match self.left.keys.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| Error::config(key, format!("found {value}: {error}"))),
        }
    }

    /// `target_modules` as written.
    pub(crate) fn targets(&self) -> &Value {
        &self.targets
    }

    /// The value of a key, or PEFT's default.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> Result<T> {
        Ok(self.find(key)?.unwrap_or(default))
    }

    /// Drops keys that change nothing in what an adapter computes.
    pub(crate) fn skip(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.known.push(key);
            self.left.keys.remove(*key);
        }
    }

    /// Refuses a known key with a value other than null, false or empty.
    pub(crate) fn refuse(&mut self, keys: &[&'static str]) -> Result<()> {
        for key in keys {
            if let Some(value) = self.find::<Value>(key)?.filter(|value| !is_empty(value)) {
                return Err(Error::Unsupported(format!(
                    "`{key}` = {value} is not supported yet"
                )));
            }
        }
        Ok(())
    }

    /// Warns of a known option that acts in training only and that Engraft's method lacks.
    pub(crate) fn training_only(&mut self, key: &'static str) -> Result<()> {
        if let Some(value) = self
            .find::<Value>(key)?
            .filter(|value| !is_empty(value) && value.as_f64() != Some(0.0))
        {
            self.warn(format!(
                "`{key}` = {value} acts in training only and is dropped"
            ));
        }
        Ok(())
    }

    /// The rank pattern.
    pub(crate) fn rank_pattern(&mut self) -> Patterns {
        if self.left.keys.get("rank_pattern") == Some(&Value::Null) {
            self.left.keys.remove("rank_pattern");
        }
        std::mem::take(&mut self.left.rank_pattern)
    }

    /// The alpha pattern.
    pub(crate) fn alpha_pattern(&mut self) -> Patterns {
        std::mem::take(&mut self.left.alpha_pattern)
    }

    /// C3A's block sizes, in a file's order, or of a configuration that was just written.
    pub(crate) fn block_sizes(&mut self) -> Result<Patterns> {
        let written = self.get("block_size_pattern", Patterns::default())?;
        Ok(self.left.block_size_pattern.take().unwrap_or(written))
    }

    /// The numbers of coefficients of FourierFT and WaveFT, as [`block_sizes`](Self::block_sizes).
    pub(crate) fn frequencies(&mut self) -> Result<Patterns> {
        let written = self.get("n_frequency_pattern", Patterns::default())?;
        Ok(self.left.n_frequency_pattern.take().unwrap_or(written))
    }

    pub(crate) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// The warnings, when nothing is left that means something.
    pub(crate) fn finish(mut self) -> Result<Vec<String>> {
        let none = Patterns::default();
        for (key, patterns) in [
            ("rank_pattern", &self.left.rank_pattern),
            ("alpha_pattern", &self.left.alpha_pattern),
            (
                "block_size_pattern",
                self.left.block_size_pattern.as_ref().unwrap_or(&none),
            ),
            (
                "n_frequency_pattern",
                self.left.n_frequency_pattern.as_ref().unwrap_or(&none),
            ),
        ] {
            if !patterns.0.is_empty() {
                return Err(self.unknown(key, &format!("{:?}", patterns.0)));
            }
        }
        for (key, value) in std::mem::take(&mut self.left.keys) {
            if !is_empty(&value) {
                return Err(self.unknown(&key, &value.to_string()));
            }
            self.warnings
                .push(format!("unknown key `{key}` is {value} and was ignored"));
        }
        Ok(self.warnings)
    }

    fn unknown(&self, key: &str, value: &str) -> Error {
        Error::UnknownKey {
            key: key.to_owned(),
            value: value.to_owned(),
            suggestion: suggestion(key, self.known.iter().copied()),
        }
    }
}

/// Null, false, or an empty text, list or table.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(table) => table.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_keep_the_order_of_the_file() {
        let config: PeftConfig = serde_json::from_str(
            r#"{"peft_type": "LORA", "rank_pattern": {"z": 2, "a": 4}, "r": 8}"#,
        )
        .unwrap();
        assert_eq!(
            config.rank_pattern.0,
            [("z".to_owned(), 2.0), ("a".to_owned(), 4.0)]
        );
        assert_eq!(config.keys["r"], 8);
    }

    #[test]
    fn masks_in_the_place_of_ranks_survive() {
        let value = json!({"peft_type": "ADALORA", "alpha_pattern": {}, "rank_pattern": {"fc1.lora_E": [true, false]}});
        let config: PeftConfig = value.clone().try_into().unwrap();
        assert_eq!(config.to_json(), value);
        assert!(Reader::new(&config).finish().is_err());
    }

    #[test]
    fn unknown_keys_are_warnings_when_empty_and_errors_otherwise() {
        let read = |value: Value| Reader::new(&value.try_into().unwrap()).finish();
        let warnings = read(json!({"new_option": null, "other": [], "third": false})).unwrap();
        assert_eq!(warnings.len(), 3);
        let message = read(json!({"new_option": 3})).unwrap_err().to_string();
        assert!(message.contains("`new_option` = 3"), "{message}");
        assert!(read(json!({"rank_pattern": {"a": 1}})).is_err());
    }
}
