//! Choosing a token by its scores.

use engraft_core::{Error, Result};
use engraft_tensor::{Init, Key};
use serde::{Deserialize, Serialize};

/// How the next token is chosen from the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sampling {
    /// Scores are divided by it; 0 takes the token of the highest score.
    pub temperature: f64,
    /// Only so many tokens of the highest scores are drawn from; 0 is all (Fan et al., arXiv
    /// 1805.04833).
    pub top_k: usize,
    /// Only the fewest tokens are drawn from whose probabilities add up to it (Holtzman et al.,
    /// arXiv 1904.09751).
    pub top_p: f64,
    /// Scores of tokens that occurred are divided by it where they are positive, and multiplied
    /// where they are negative (Keskar et al., arXiv 1909.05858).
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// A negative temperature, a `top_p` outside (0, 1], a penalty that is not positive.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: &str, found: f64, expected: &str| {
            Err(Error::BadConfig {
                what: "sampling".to_owned(),
                reason: format!("found {what} = {found}, expected {expected}"),
            })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", self.temperature, "a number of at least 0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top-p", self.top_p, "a number above 0 and at most 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            let found = self.repetition_penalty;
            return refuse("repetition-penalty", found, "a number above 0");
        }
        Ok(())
    }

    /// The token chosen from its scores by the stream of `key`, where `occurred` are the tokens so far.
    pub(crate) fn choose(&self, mut scores: Vec<f64>, occurred: &[i64], key: &Key) -> usize {
        self.penalise(&mut scores, occurred);
        if self.temperature == 0.0 {
            return highest(&scores);
        }
        let kept = self.kept(&scores);
        let total: f64 = kept.iter().map(|(_, probability)| probability).sum();
        let uniform = Init::Uniform { bound: 0.5 }.values(1, key)[0] + 0.5;
        let mut left = uniform * total;
        for (token, probability) in &kept {
            left -= probability;
            if left < 0.0 {
                return *token;
            }
        }
        kept.last()
            .map_or_else(|| highest(&scores), |(token, _)| *token)
    }

    fn penalise(&self, scores: &mut [f64], occurred: &[i64]) {
        let mut occurred = occurred.to_vec();
        occurred.sort_unstable();
        occurred.dedup();
        for token in occurred {
            let Some(score) = usize::try_from(token)
                .ok()
                .and_then(|at| scores.get_mut(at))
            else {
                continue;
            };
            *score = match *score > 0.0 {
                true => *score / self.repetition_penalty,
                false => *score * self.repetition_penalty,
            };
        }
    }

    /// The tokens that are drawn from, with their probabilities, the likeliest first.
    fn kept(&self, scores: &[f64]) -> Vec<(usize, f64)> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let largest = order.first().map_or(0.0, |first| scores[*first]);
        let weight = |token: usize| ((scores[token] - largest) / self.temperature).exp();
        let total: f64 = order.iter().map(|token| weight(*token)).sum();
        let mut above = 0.0;
        order
            .into_iter()
            .map(|token| (token, weight(token) / total))
            .take_while(|(_, probability)| {
                let kept = above < self.top_p;
                above += probability;
                kept
            })
            .collect()
    }
}

/// The first of the highest scores.
fn highest(scores: &[f64]) -> usize {
    let better = |best: usize, at: usize| if scores[at] > scores[best] { at } else { best };
    (0..scores.len()).reduce(better).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probabilities() -> Vec<f64> {
        vec![0.1, 0.4, 0.2, 0.3]
    }

    fn scores() -> Vec<f64> {
        probabilities().iter().map(|p| p.ln()).collect()
    }

    fn tokens(sampling: &Sampling) -> Vec<usize> {
        let kept = sampling.kept(&scores());
        kept.into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn the_fewest_tokens_are_kept() {
        let warm = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        assert_eq!(tokens(&warm), [1, 3, 2, 0]);
        assert_eq!(
            tokens(&Sampling {
                top_k: 2,
                ..warm.clone()
            }),
            [1, 3]
        );
        assert_eq!(
            tokens(&Sampling {
                top_p: 0.6,
                ..warm.clone()
            }),
            [1, 3]
        );
        assert_eq!(
            tokens(&Sampling {
                top_p: 1e-9,
                ..warm
            }),
            [1]
        );
    }

    #[test]
    fn draws_have_the_probabilities() {
        let warm = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        let draws = 4000;
        let mut counts = [0.0; 4];
        for draw in 0..draws {
            let key = Key::new(3).child(&draw.to_string());
            counts[warm.choose(scores(), &[], &key)] += 1.0;
        }
        for (count, p) in counts.iter().zip(probabilities()) {
            // Five standard errors.
            let error = 5.0 * (p * (1.0 - p) / f64::from(draws)).sqrt();
            assert!((count / f64::from(draws) - p).abs() < error);
        }
        assert_eq!(Sampling::default().choose(scores(), &[], &Key::new(1)), 1);
    }

    #[test]
    fn a_penalty_lowers_what_occurred_whatever_its_sign() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::default()
        };
        let mut scores = vec![3.0, 2.0, -1.0, -1.0];
        sampling.penalise(&mut scores, &[0, 2, 0]);
        assert_eq!(scores, [1.5, 2.0, -2.0, -1.0]);
        assert_eq!(sampling.choose(vec![3.0, 2.0], &[0], &Key::new(1)), 1);
    }

    #[test]
    fn numbers_without_sense_are_refused() {
        for bad in [
            Sampling {
                temperature: -1.0,
                ..Sampling::default()
            },
            Sampling {
                top_p: 0.0,
                ..Sampling::default()
            },
            Sampling {
                top_p: 1.1,
                ..Sampling::default()
            },
            Sampling {
                repetition_penalty: 0.0,
                ..Sampling::default()
            },
        ] {
            assert!(bad.validate().is_err());
        }
    }
}
