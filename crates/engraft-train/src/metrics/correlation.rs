//! Correlation of numbers.

use crate::metrics::ratio;

/// Pearson's correlation, cov(a, b) / (std(a) std(b)).
///
/// # Panics
/// If the lengths differ.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "as many predictions as labels");
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect::<Vec<_>>()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (a, b) = (centred(a), centred(b));
    // Rounding may lead beyond 1.
    ratio(dot(&a, &b), dot(&a, &a).sqrt() * dot(&b, &b).sqrt()).clamp(-1.0, 1.0)
}

/// Spearman's correlation: Pearson's of the ranks, equal values sharing the mean of their ranks.
///
/// # Panics
/// If the lengths differ.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut ranks, mut below) = (vec![0.0; values.len()], 0);
    for ties in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let mean = below as f64 + (ties.len() as f64 + 1.0) / 2.0;
        ties.iter().for_each(|place| ranks[*place] = mean);
        below += ties.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::{near, sequence};

    #[test]
    fn values_by_hand() {
        assert!(near(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), 1.0));
        assert!(near(pearson(&[1.0, 2.0, 3.0], &[3.0, 1.0, 2.0]), -0.5));
        assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 3.0]), [3.5, 1.0, 3.5, 2.0]);
        assert!(near(
            spearman(&[1.0, 2.0, 3.0, 4.0], &[1.0, 8.0, 27.0, 64.0]),
            1.0
        ));
    }

    /// SciPy 1.17.1 on the same sequences: `pearsonr`, `spearmanr`; there are ties.
    #[test]
    fn scipy_has_the_same_values() {
        let a: Vec<f64> = sequence(40, 10, 5)
            .into_iter()
            .map(|value| value as f64)
            .collect();
        let noise = sequence(40, 12, 6);
        let b: Vec<f64> = a
            .iter()
            .zip(noise)
            .map(|(a, noise)| a + noise as f64 * 0.5)
            .collect();
        assert!(near(pearson(&a, &b), 0.8285382701097722));
        assert!(near(spearman(&a, &b), 0.8431140310203117));
    }
}
