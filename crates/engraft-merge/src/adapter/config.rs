//! `adapter_config.json` of PEFT.

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Name of the configuration's file.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The keys of a configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    keys: Map<String, Value>,
}

impl Config {
    /// A configuration of these keys.
    #[must_use]
    pub fn new(keys: Map<String, Value>) -> Self {
        Self { keys }
    }

    /// Reads the file of an adapter's directory.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::file(&path, format!("cannot be read: {error}")))?;
        let keys = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("malformed: {error}")))?;
        Ok(Self { keys })
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Map<String, Value> {
        &self.keys
    }

    /// The same with other values of some keys.
    #[must_use]
    pub fn with<'a>(&self, changed: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        let mut keys = self.keys.clone();
        for (key, value) in changed {
            keys.insert(key.to_owned(), value);
        }
        Self { keys }
    }

    /// `peft_type`, empty where it is missing.
    #[must_use]
    pub fn peft_type(&self) -> &str {
        self.text("peft_type").unwrap_or_default()
    }

    /// Text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.keys.get(key).and_then(Value::as_str)
    }

    /// Whether a switch is on: false where it is missing or null.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        match self.keys.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Object(keys)) => !keys.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::String(text)) => !text.is_empty() && text != "none",
            Some(Value::Number(_) | Value::Bool(true)) => true,
        }
    }

    /// A number.
    ///
    /// # Errors
    /// A key that is missing or no number.
    pub fn number(&self, key: &str) -> Result<f64> {
        let found = self.keys.get(key);
        found.and_then(Value::as_f64).ok_or_else(|| {
            let found = found.map_or("nothing".to_owned(), Value::to_string);
            Error::input(format!("`{key}` is {found}, expected a number"))
        })
    }

    /// The number of a module: that of the first pattern that its path matches, as PEFT matches them,
    /// or else `key`'s.
    ///
    /// # Errors
    /// A key that is missing, or a pattern that is no regular expression.
    pub fn number_of(&self, key: &str, pattern: &str, module: &str) -> Result<f64> {
        if let Some(Value::Object(patterns)) = self.keys.get(pattern) {
            for (path, value) in patterns {
                let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{path})$"))
                    .map_err(|error| Error::input(format!("`{pattern}`: {path}: {error}")))?;
                if regex.is_match(module).unwrap_or(false) {
                    return value.as_f64().ok_or_else(|| {
                        let reason = format!("`{pattern}`: {value} for {path}, expected a number");
                        Error::input(reason)
                    });
                }
            }
        }
        self.number(key)
    }

    /// As the file has it.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(&self.keys).expect("plain data")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_match_as_in_peft() {
        let Value::Object(keys) = json!({
            "lora_alpha": 8, "alpha_pattern": {"layers.1.q": 4, "^k": 2, "v|o": 3},
        }) else {
            unreachable!()
        };
        let config = Config::new(keys);
        let alpha = |module| {
            config
                .number_of("lora_alpha", "alpha_pattern", module)
                .unwrap()
        };
        assert_eq!(alpha("model.layers.1.q"), 4.0);
        assert_eq!(alpha("model.layers.11.q"), 8.0);
        assert_eq!(alpha("k"), 2.0);
        assert_eq!(alpha("a.o"), 3.0);
        assert_eq!(alpha("a.vo"), 8.0);
        assert!(config.number("r").is_err());
    }
}
