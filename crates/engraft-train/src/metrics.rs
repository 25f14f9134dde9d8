//! Metrics: how good predictions are.
//!
//! On values on the host, in f64. Where a metric is not defined (a correlation with a constant, an F1
//! without positives) it is 0, so that a model that learned nothing has a number.

mod accuracy;
mod bleu;
mod confusion;
mod correlation;
mod predictions;
mod rouge_l;

pub use accuracy::{accuracy, correct};
pub use bleu::{bleu, tokenize_13a};
pub use confusion::Confusion;
pub use correlation::{pearson, spearman};
pub use predictions::Predictions;
pub use rouge_l::rouge_l;

/// Share of texts that are equal, apart from surrounding white space.
pub fn exact_match<S: AsRef<str>>(predicted: &[S], expected: &[S]) -> f64 {
    let hits = predicted
        .iter()
        .zip(expected)
        .filter(|(p, e)| p.as_ref().trim() == e.as_ref().trim());
    ratio(hits.count() as f64, predicted.len() as f64)
}

/// exp(mean loss of a token), from the sum of the losses in nats and the number of tokens.
pub fn perplexity(sum: f64, tokens: usize) -> f64 {
    (sum / tokens as f64).exp()
}

/// a / b, or 0 where b is 0.
fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The integers below `modulus` that the reference values are of: a linear congruential generator.
    pub(crate) fn sequence(len: usize, modulus: u64, seed: u64) -> Vec<usize> {
        let step = |x: &u64| Some((x * 1_103_515_245 + 12345) % (1 << 31));
        let states = std::iter::successors(step(&seed), step);
        states
            .take(len)
            .map(|x| ((x >> 16) % modulus) as usize)
            .collect()
    }

    /// 60 labels of four classes, and predictions of which a third are drawn anew.
    pub(crate) fn classes() -> (Vec<usize>, Vec<usize>) {
        let (labels, others) = (sequence(60, 4, 1), sequence(60, 4, 3));
        let kept = sequence(60, 3, 2);
        let predicted = (0..60).map(|i| if kept[i] > 0 { labels[i] } else { others[i] });
        (predicted.collect(), labels)
    }

    pub(crate) fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-12 * expected.abs().max(1.0)
    }

    #[test]
    fn texts_match_up_to_white_space_and_perplexity_is_an_exponential() {
        assert_eq!(
            exact_match(&[" 12", "a b", "x"], &["12 ", "a  b", "x"]),
            2.0 / 3.0
        );
        assert_eq!(exact_match::<&str>(&[], &[]), 0.0);
        assert!(near(perplexity(10.0 * 7f64.ln(), 10), 7.0));
    }
}
