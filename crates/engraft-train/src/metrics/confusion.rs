//! Metrics of classes: F1 and Matthews' correlation.

use crate::metrics::ratio;

/// Which classes were predicted for which: the counts from which metrics of classes follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    /// Decisions whose class is right, by class.
    hits: Vec<u64>,
    /// Decisions for each class.
    predicted: Vec<u64>,
    /// Examples of each class.
    actual: Vec<u64>,
    /// Decisions in all; of several labels, each example counts once for each.
    decisions: u64,
}

impl Confusion {
    /// One class for each example.
    ///
    /// # Panics
    /// If the lengths differ or a class is not below `classes`.
    pub fn of_classes(predicted: &[usize], labels: &[usize], classes: usize) -> Self {
        assert_eq!(
            predicted.len(),
            labels.len(),
            "as many predictions as labels"
        );
        let mut counts = Self::empty(classes, predicted.len());
        for (predicted, actual) in predicted.iter().zip(labels) {
            counts.predicted[*predicted] += 1;
            counts.actual[*actual] += 1;
            counts.hits[*actual] += u64::from(predicted == actual);
        }
        counts
    }

    /// Any number of classes for each example: [examples, classes], row-major.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of_sets(predicted: &[bool], labels: &[bool], classes: usize) -> Self {
        assert_eq!(
            predicted.len(),
            labels.len(),
            "as many predictions as labels"
        );
        let mut counts = Self::empty(classes, predicted.len());
        for (place, (predicted, actual)) in predicted.iter().zip(labels).enumerate() {
            counts.predicted[place % classes] += u64::from(*predicted);
            counts.actual[place % classes] += u64::from(*actual);
            counts.hits[place % classes] += u64::from(*predicted && *actual);
        }
        counts
    }

    fn empty(classes: usize, decisions: usize) -> Self {
        let zeros = vec![0; classes];
        Self {
            hits: zeros.clone(),
            predicted: zeros.clone(),
            actual: zeros,
            decisions: decisions as u64,
        }
    }

    /// F1 of one class: the harmonic mean of precision and recall, 2 hits / (predicted + actual).
    ///
    /// # Panics
    /// If there is no such class.
    pub fn f1(&self, class: usize) -> f64 {
        ratio(
            2.0 * self.hits[class] as f64,
            (self.predicted[class] + self.actual[class]) as f64,
        )
    }

    /// Mean F1 of the classes that were predicted or are there.
    pub fn macro_f1(&self) -> f64 {
        let seen = |class: &usize| self.predicted[*class] + self.actual[*class] > 0;
        let classes: Vec<usize> = (0..self.hits.len()).filter(seen).collect();
        ratio(
            classes.iter().map(|class| self.f1(*class)).sum(),
            classes.len() as f64,
        )
    }

    /// F1 of all decisions together. With one class for each example it is the accuracy.
    pub fn micro_f1(&self) -> f64 {
        let sum = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
        ratio(
            2.0 * sum(&self.hits),
            sum(&self.predicted) + sum(&self.actual),
        )
    }

    /// Matthews' correlation of one class for each example, for any number of classes (Gorodkin 2004):
    /// (c s - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)) with s examples, c hits, p predictions
    /// and t examples of each class.
    pub fn matthews(&self) -> f64 {
        let product = |a: &[u64], b: &[u64]| -> f64 {
            a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
        };
        let s = self.decisions as f64;
        let hits: u64 = self.hits.iter().sum();
        let covariance = hits as f64 * s - product(&self.predicted, &self.actual);
        let variance = (s * s - product(&self.predicted, &self.predicted))
            * (s * s - product(&self.actual, &self.actual));
        ratio(covariance, variance.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::{classes, near};

    #[test]
    fn counts_by_hand() {
        let binary = Confusion::of_classes(&[1, 1, 0, 0, 1], &[1, 0, 0, 1, 1], 2);
        assert!(near(binary.f1(1), 2.0 / 3.0) && near(binary.f1(0), 0.5));
        assert!(near(binary.macro_f1(), (2.0 / 3.0 + 0.5) / 2.0));
        assert!(near(binary.micro_f1(), 0.6));
        // (TP TN - FP FN) / sqrt(..) = (2 - 1) / sqrt(3 * 3 * 2 * 2)
        assert!(near(binary.matthews(), 1.0 / 6.0));
        let constant = Confusion::of_classes(&[0, 0], &[0, 1], 3);
        assert_eq!((constant.matthews(), constant.f1(2)), (0.0, 0.0));
        assert!(near(constant.macro_f1(), 1.0 / 3.0));
    }

    /// scikit-learn 1.9.1 on the same sequences: `f1_score`, `matthews_corrcoef`.
    #[test]
    fn scikit_learn_has_the_same_values() {
        let (predicted, labels) = classes();
        let four = Confusion::of_classes(&predicted, &labels, 4);
        assert!(near(four.macro_f1(), 0.7868731363513146));
        assert!(near(four.micro_f1(), 0.8));
        assert!(near(four.matthews(), 0.7320569104950413));
        let parity = |classes: &[usize]| classes.iter().map(|class| class % 2).collect::<Vec<_>>();
        let two = Confusion::of_classes(&parity(&predicted), &parity(&labels), 2);
        assert!(near(two.f1(1), 0.8615384615384616));
        assert!(near(two.matthews(), 0.6983799021553296));
        let flags = |classes: &[usize]| {
            classes
                .iter()
                .map(|class| class % 2 == 1)
                .collect::<Vec<_>>()
        };
        let sets = Confusion::of_sets(&flags(&predicted), &flags(&labels), 4);
        assert!(near(sets.micro_f1(), 0.8615384615384616));
        assert!(near(sets.macro_f1(), 0.8247619047619048));
    }
}
