//! Hidden tokens, from those around them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::metric::Metric;
use crate::read::{Row, RowError};
use crate::task::columns::Columns;
use crate::task::inputs::example;
use crate::task::{Encode, Output, Prepared};
use crate::text::{Example, IGNORED};
use crate::tokens::Tokens;

/// Texts with tokens to guess (Devlin et al. 2019, section 3.1): of the tokens that are not special,
/// `probability` are chosen anew in every epoch, of which 80% become the mask token, 10% a random
/// token and 10% stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MaskedLanguage {
    /// The column of the text.
    pub text: Option<String>,
    /// Share of the tokens that are chosen.
    pub probability: f64,
    /// Whether texts are joined and cut into blocks of the largest length.
    pub packed: bool,
}

impl Default for MaskedLanguage {
    fn default() -> Self {
        Self {
            text: None,
            probability: 0.15,
            packed: false,
        }
    }
}

impl MaskedLanguage {
    pub(super) fn prepare(&self, columns: &Columns, tokens: &Tokens) -> Result<Prepared> {
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            let reason = format!(
                "found {}, expected more than 0 and at most 1",
                self.probability
            );
            return Err(DataError::Setting {
                what: "probability",
                reason,
            });
        }
        let Some(mask) = tokens.special.mask else {
            return Err(tokens.lacks("found no mask token, expected [MASK] or <mask>"));
        };
        let masking = Masking {
            probability: self.probability,
            mask,
            size: tokens.size() as u32,
            special: tokens.special.all.iter().copied().collect(),
        };
        let encoder = Read {
            text: columns.text(self.text.as_deref())?,
        };
        let metrics = [Metric::Perplexity, Metric::Accuracy];
        let prepared = Prepared::new(encoder, Output::MaskedToken, &metrics);
        Ok(Prepared {
            packed: self.packed,
            masking: Some(masking),
            ..prepared
        })
    }
}

struct Read {
    text: String,
}

impl Encode for Read {
    fn encode(&self, row: &Row, tokens: &Tokens, _: bool) -> Result<Example, RowError> {
        example(row, &tokens.text(row.text(&self.text)?, true)?)
    }
}

/// Which tokens are hidden, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Masking {
    probability: f64,
    mask: u32,
    size: u32,
    /// In ascending order.
    special: Vec<u32>,
}

impl Masking {
    /// Hides tokens of one example and returns the labels: its id for a chosen token, otherwise
    /// [`IGNORED`]. The choice depends on `seed` and `stream` alone. At least one token is chosen if
    /// there is one that is not special.
    pub fn apply(&self, ids: &mut [u32], seed: u64, stream: u64) -> Vec<i64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        let mut labels = vec![IGNORED; ids.len()];
        let draws: Vec<f64> = ids
            .iter()
            .map(|id| match self.special.binary_search(id) {
                Ok(_) => f64::INFINITY,
                Err(_) => rng.random(),
            })
            .collect();
        let least = draws.iter().copied().fold(f64::INFINITY, f64::min);
        for place in 0..ids.len() {
            if !(draws[place].is_finite()
                && (draws[place] < self.probability || draws[place] == least))
            {
                continue;
            }
            labels[place] = i64::from(ids[place]);
            match rng.random::<f64>() {
                draw if draw < 0.8 => ids[place] = self.mask,
                draw if draw < 0.9 => ids[place] = rng.random_range(0..self.size),
                _ => {}
            }
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_80_10_10_of_15_percent_and_special_tokens_stay() {
        let masking = Masking {
            probability: 0.15,
            mask: 6,
            size: 1000,
            special: (0..7).collect(),
        };
        let text: Vec<u32> = (0..200_000).map(|place| place % 500).collect();
        let mut ids = text.clone();
        let labels = masking.apply(&mut ids, 3, 1);
        let chosen: Vec<usize> = (0..ids.len())
            .filter(|place| labels[*place] != IGNORED)
            .collect();
        let (mut masked, mut same) = (0, 0);
        for place in 0..ids.len() {
            if labels[place] == IGNORED {
                assert_eq!(ids[place], text[place]);
            } else {
                assert!(text[place] > 6 && labels[place] == i64::from(text[place]));
                masked += usize::from(ids[place] == 6);
                same += usize::from(ids[place] == text[place]);
            }
        }
        let ordinary = text.iter().filter(|id| **id > 6).count() as f64;
        // Four standard deviations of the binomial.
        let near = |found: usize, of: f64, share: f64| {
            (found as f64 - of * share).abs() < 4.0 * (of * share * (1.0 - share)).sqrt()
        };
        let count = chosen.len() as f64;
        assert!(
            near(chosen.len(), ordinary, 0.15)
                && near(masked, count, 0.8)
                && near(same, count, 0.1)
        );

        let again = |seed, stream| masking.apply(&mut text.clone(), seed, stream);
        assert_eq!(again(3, 1), labels);
        assert!(again(3, 2) != labels && again(4, 1) != labels);
    }

    #[test]
    fn there_is_always_something_to_guess() {
        let masking = Masking {
            probability: 1e-9,
            mask: 6,
            size: 9,
            special: vec![0, 6],
        };
        for stream in 0..20 {
            let labels = masking.apply(&mut [0, 7, 8, 0], 0, stream);
            assert_eq!(labels.iter().filter(|label| **label != IGNORED).count(), 1);
        }
        assert_eq!(masking.apply(&mut [0, 0], 0, 0), [IGNORED; 2]);
    }
}
