//! Early stopping.

use serde::{Deserialize, Serialize};

/// Stops after `patience` evaluations in a row that did not beat the best by more than `min_delta`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EarlyStop {
    /// Evaluations without improvement that are tolerated.
    pub patience: usize,
    /// Improvements up to this size do not count.
    #[serde(default)]
    pub min_delta: f64,
}

impl EarlyStop {
    /// Whether training should stop after these evaluations, of which more is better.
    pub fn is_over(&self, evaluations: impl IntoIterator<Item = f64>) -> bool {
        let (mut best, mut waited) = (f64::NEG_INFINITY, 0);
        for value in evaluations {
            if value > best + self.min_delta {
                (best, waited) = (value, 0);
            } else {
                waited += 1;
            }
        }
        waited > self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_starts_again_with_every_improvement() {
        let stop = EarlyStop {
            patience: 1,
            min_delta: 0.1,
        };
        assert!(!stop.is_over([]));
        assert!(!stop.is_over([0.5, 0.5]));
        assert!(stop.is_over([0.5, 0.55, 0.6]));
        assert!(!stop.is_over([0.5, 0.5, 0.7, 0.7]));
        assert!(stop.is_over([0.5, f64::NAN, f64::NAN]));
    }
}
