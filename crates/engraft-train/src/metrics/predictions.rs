//! Predictions beside what was expected, and the metrics that apply to them.

use engraft_data::Metric;

use crate::error::{Error, Result};
use crate::metrics::{Confusion, bleu, exact_match, pearson, perplexity, ratio, rouge_l, spearman};

/// Predictions of a data set with its labels.
#[derive(Debug, Clone, PartialEq)]
pub enum Predictions {
    /// A class for each example, or for each labelled token.
    Classes {
        /// The predicted classes.
        predicted: Vec<usize>,
        /// The right ones.
        labels: Vec<usize>,
        /// How many classes there are.
        classes: usize,
    },
    /// Any number of classes for each example, [examples, classes], row-major.
    Sets {
        /// Whether a class was predicted.
        predicted: Vec<bool>,
        /// Whether it applies.
        labels: Vec<bool>,
        /// How many classes there are.
        classes: usize,
    },
    /// A number for each example.
    Numbers {
        /// The predicted numbers.
        predicted: Vec<f64>,
        /// The right ones.
        labels: Vec<f64>,
    },
    /// A text for each example.
    Texts {
        /// The generated texts.
        predicted: Vec<String>,
        /// The references.
        labels: Vec<String>,
    },
    /// How well the right tokens were predicted.
    Likelihood {
        /// The sum of the tokens' losses, in nats.
        loss: f64,
        /// How many tokens that was.
        tokens: usize,
        /// Of how many the right one was the most likely.
        hits: usize,
    },
}

impl Predictions {
    /// The value of a metric.
    ///
    /// # Errors
    /// A metric that does not apply to predictions of this kind.
    pub fn measure(&self, metric: Metric) -> Result<f64> {
        Ok(match (self, metric) {
            (
                Self::Classes {
                    predicted,
                    labels,
                    classes,
                },
                metric,
            ) => {
                let confusion = || Confusion::of_classes(predicted, labels, *classes);
                match metric {
                    Metric::Accuracy => equal_rows(predicted, labels, 1),
                    Metric::F1 if *classes == 2 => confusion().f1(1),
                    Metric::MacroF1 => confusion().macro_f1(),
                    Metric::MicroF1 => confusion().micro_f1(),
                    Metric::Matthews => confusion().matthews(),
                    other => return self.does_not_apply(other),
                }
            }
            (
                Self::Sets {
                    predicted,
                    labels,
                    classes,
                },
                metric,
            ) => {
                let confusion = || Confusion::of_sets(predicted, labels, *classes);
                match metric {
                    Metric::Accuracy => equal_rows(predicted, labels, *classes),
                    Metric::MacroF1 => confusion().macro_f1(),
                    Metric::MicroF1 => confusion().micro_f1(),
                    other => return self.does_not_apply(other),
                }
            }
            (Self::Numbers { predicted, labels }, Metric::Pearson) => pearson(predicted, labels),
            (Self::Numbers { predicted, labels }, Metric::Spearman) => spearman(predicted, labels),
            (Self::Texts { predicted, labels }, Metric::ExactMatch) => {
                exact_match(predicted, labels)
            }
            (Self::Texts { predicted, labels }, Metric::RougeL) => rouge_l(predicted, labels),
            (Self::Texts { predicted, labels }, Metric::Bleu) => {
                let references: Vec<Vec<String>> =
                    labels.iter().map(|text| vec![text.clone()]).collect();
                bleu(predicted, &references)
            }
            (Self::Likelihood { loss, tokens, .. }, Metric::Perplexity) => {
                perplexity(*loss, *tokens)
            }
            (Self::Likelihood { tokens, hits, .. }, Metric::Accuracy) => {
                ratio(*hits as f64, *tokens as f64)
            }
            (_, other) => return self.does_not_apply(other),
        })
    }

    fn does_not_apply(&self, metric: Metric) -> Result<f64> {
        let expected = match self {
            Self::Classes { classes: 2, .. } => "accuracy, f1, macro-f1, micro-f1 or matthews",
            Self::Classes { .. } => "accuracy, macro-f1, micro-f1 or matthews",
            Self::Sets { .. } => "accuracy, macro-f1 or micro-f1",
            Self::Numbers { .. } => "pearson or spearman",
            Self::Texts { .. } => "exact-match, bleu or rouge-l",
            Self::Likelihood { .. } => "perplexity or accuracy",
        };
        let reason = format!("found {metric}, expected {expected} for these predictions");
        Err(Error::BadConfig {
            what: "metric",
            reason,
        })
    }
}

/// Share of rows that are equal in all their columns.
fn equal_rows<T: PartialEq>(a: &[T], b: &[T], columns: usize) -> f64 {
    let rows = a.chunks(columns).zip(b.chunks(columns));
    ratio(
        rows.filter(|(a, b)| a == b).count() as f64,
        (a.len() / columns) as f64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::{classes, near};

    #[test]
    fn each_kind_has_its_metrics() {
        let (predicted, labels) = classes();
        let flags = |classes: &[usize]| classes.iter().map(|class| class % 2 == 1).collect();
        // scikit-learn 1.9.1: `accuracy_score`.
        let sets = Predictions::Sets {
            predicted: flags(&predicted),
            labels: flags(&labels),
            classes: 4,
        };
        assert!(near(sets.measure(Metric::Accuracy).unwrap(), 0.6));
        let four = Predictions::Classes {
            predicted,
            labels,
            classes: 4,
        };
        assert!(near(four.measure(Metric::Accuracy).unwrap(), 0.8));
        let message = four.measure(Metric::F1).unwrap_err().to_string();
        assert!(
            message.contains("found f1, expected accuracy, macro-f1"),
            "{message}"
        );
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let texts = Predictions::Texts {
            predicted: texts(&["a b c d"]),
            labels: texts(&["a b c d "]),
        };
        for (metric, best) in [
            (Metric::ExactMatch, 1.0),
            (Metric::RougeL, 1.0),
            (Metric::Bleu, 100.0),
        ] {
            assert!(near(texts.measure(metric).unwrap(), best));
        }
        let likelihood = Predictions::Likelihood {
            loss: 0.0,
            tokens: 4,
            hits: 3,
        };
        assert_eq!(likelihood.measure(Metric::Perplexity).unwrap(), 1.0);
        assert_eq!(likelihood.measure(Metric::Accuracy).unwrap(), 0.75);
        let numbers = Predictions::Numbers {
            predicted: vec![1.0, 2.0],
            labels: vec![3.0, 4.0],
        };
        assert!(near(numbers.measure(Metric::Spearman).unwrap(), 1.0));
        assert!(numbers.measure(Metric::Bleu).is_err());
    }
}
