//! The value of a key, from a list of keys with values.

use rand::RngExt;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::generate::{Draw, out_of_range};

/// Rows such as `k3 v7 k0 v1 k5 v7 ? k0` with ` v1`: keys are drawn without, values with
/// replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recall {
    /// Different keys.
    pub keys: usize,
    /// Different values.
    pub values: usize,
    /// Keys of a row.
    pub pairs: usize,
}

impl Default for Recall {
    fn default() -> Self {
        Self {
            keys: 16,
            values: 16,
            pairs: 4,
        }
    }
}

impl Draw for Recall {
    fn count(&self) -> u64 {
        let draws =
            (0..self.pairs as u64).map(|drawn| (self.keys as u64 - drawn) * self.values as u64);
        draws.fold(self.pairs as u64, u64::saturating_mul)
    }

    fn check(&self) -> Result<()> {
        if self.values == 0 || self.values > 1 << 20 {
            return Err(out_of_range("values", self.values, "1 to 1048576"));
        }
        if self.keys > 1 << 20 {
            return Err(out_of_range("keys", self.keys, "at most 1048576"));
        }
        match (1..=self.keys).contains(&self.pairs) {
            true => Ok(()),
            false => Err(out_of_range("pairs", self.pairs, "1 to the number of keys")),
        }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> (String, String) {
        let keys = index::sample(rng, self.keys, self.pairs).into_vec();
        let pairs: Vec<(usize, usize)> = keys
            .into_iter()
            .map(|key| (key, rng.random_range(0..self.values)))
            .collect();
        let (key, value) = pairs[rng.random_range(0..self.pairs)];
        let listed: String = pairs
            .iter()
            .map(|(key, value)| format!("k{key} v{value} "))
            .collect();
        (format!("{listed}? k{key}"), format!(" v{value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_answer_is_in_the_list() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let task = Recall {
            keys: 5,
            values: 3,
            pairs: 5,
        };
        for _ in 0..50 {
            let (prompt, answer) = task.draw(&mut rng);
            let (list, key) = prompt.split_once("? ").unwrap();
            assert_eq!(list.split_whitespace().count(), 10);
            assert!(list.contains(&format!("{key}{answer} ")), "{prompt}");
            assert_eq!(list.matches(&format!("{key} ")).count(), 1);
        }
        assert_eq!(
            Recall {
                keys: 2,
                values: 3,
                pairs: 2
            }
            .count(),
            2 * 2 * 9
        );
        assert!(
            Recall {
                pairs: 17,
                ..Recall::default()
            }
            .check()
            .is_err()
        );
    }
}
