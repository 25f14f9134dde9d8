//! Names of metrics.

use serde::{Deserialize, Serialize};

/// A number that says how well a task is done. More is better, perplexity excepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of examples, or of labelled tokens, whose class is right.
    Accuracy,
    /// F1 of class 1 among two.
    F1,
    /// Mean of the classes' F1.
    MacroF1,
    /// F1 of all decisions together.
    MicroF1,
    /// Matthews correlation coefficient.
    Matthews,
    /// Pearson correlation coefficient.
    Pearson,
    /// Spearman rank correlation coefficient.
    Spearman,
    /// Share of texts that are right, apart from surrounding white space.
    ExactMatch,
    /// Exponential of the mean loss of a token.
    Perplexity,
    /// Corpus BLEU, 0 to 100.
    Bleu,
    /// Mean ROUGE-L F-measure.
    RougeL,
}

impl Metric {
    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::MacroF1 => "macro-f1",
            Self::MicroF1 => "micro-f1",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
            Self::ExactMatch => "exact-match",
            Self::Perplexity => "perplexity",
            Self::Bleu => "bleu",
            Self::RougeL => "rouge-l",
        }
    }

    /// Whether a larger value is better.
    pub fn more_is_better(self) -> bool {
        self != Self::Perplexity
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files() {
        for metric in [
            Metric::Accuracy,
            Metric::F1,
            Metric::MacroF1,
            Metric::RougeL,
        ] {
            let name = serde_json::to_value(metric).unwrap();
            assert_eq!(name, metric.name());
            assert_eq!(serde_json::from_value::<Metric>(name).unwrap(), metric);
        }
    }
}
