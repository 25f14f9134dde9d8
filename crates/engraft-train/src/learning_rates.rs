//! Learning rates by parameter.

use engraft_core::{AnyMethod, Error as CoreError};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Parameters whose path matches `pattern` take `factor` times the learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RatePattern {
    /// A regular expression over the whole path.
    pub pattern: String,
    /// Multiplies the learning rate; 0 freezes.
    pub factor: f64,
}

impl RatePattern {
    /// The learning rates that `method` asks for when it is attached as `adapter`: for fields of
    /// its adapters and entries of its bank.
    pub fn declared(method: &AnyMethod, adapter: &str) -> Vec<Self> {
        let adapter = regex::escape(adapter);
        let pattern = |field: &str| {
            let field = regex::escape(field);
            format!(
                r".*\.adapters\.{adapter}\.(?:.*\.)?{field}|bank\.trained\.{adapter}/(?:.*/)?{field}"
            )
        };
        method
            .rates()
            .iter()
            .map(|rate| Self {
                pattern: pattern(rate.field),
                factor: rate.factor,
            })
            .collect()
    }
}

/// Factors by pattern; where several match, the last one counts, and 1 where none does.
#[derive(Debug, Clone, Default)]
pub struct LearningRates(Vec<(Regex, f64)>);

impl LearningRates {
    /// Factors from their patterns.
    ///
    /// # Errors
    /// A malformed expression, or a factor that is negative or not finite.
    pub fn new(patterns: &[RatePattern]) -> Result<Self> {
        let compile = |RatePattern { pattern, factor }: &RatePattern| {
            let bad = |reason: String| CoreError::BadPattern {
                pattern: pattern.clone(),
                reason,
            };
            if !factor.is_finite() || *factor < 0.0 {
                return Err(bad(format!(
                    "found factor {factor}, expected a finite number of at least 0"
                ))
                .into());
            }
            let regex =
                Regex::new(&format!("^(?:{pattern})$")).map_err(|error| bad(error.to_string()))?;
            Ok((regex, *factor))
        };
        patterns
            .iter()
            .map(compile)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The factor of the parameter at `path`.
    pub fn factor(&self, path: &str) -> f64 {
        self.0
            .iter()
            .rev()
            .find(|(regex, _)| regex.is_match(path))
            .map_or(1.0, |(_, factor)| *factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_the_whole_path_counts() {
        let pattern = |pattern: &str, factor| RatePattern {
            pattern: pattern.to_owned(),
            factor,
        };
        let rates =
            LearningRates::new(&[pattern(r".*\.b", 16.0), pattern(r"head\..*", 0.5)]).unwrap();
        assert_eq!(rates.factor("blocks.0.fc1.adapters.x.b"), 16.0);
        assert_eq!(rates.factor("head.b"), 0.5);
        assert_eq!(rates.factor("blocks.0.fc1.bias"), 1.0);
        assert!(LearningRates::new(&[pattern("(", 1.0)]).is_err());
        assert!(
            LearningRates::new(&[pattern("a", -1.0)])
                .unwrap_err()
                .to_string()
                .contains("-1")
        );
    }
}
