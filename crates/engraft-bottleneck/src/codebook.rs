//! The few values that quantised weights take.

use std::sync::OnceLock;

use engraft_kernels::Levels;

/// Steps of the fixed point, as in the authors' code. From all zeros it has not converged at 7 and 8
/// bits: the values around zero still lie closer together than the medians do.
const STEPS: usize = 500;

/// 2^b values for standard normal numbers, b from 1 to 8: each is the median of the distribution
/// between the thresholds around it, the least absolute error.
///
/// # Panics
/// For another number of bits.
pub fn codebook(bits: usize) -> &'static Levels {
    static BOOKS: [OnceLock<Levels>; 8] = [const { OnceLock::new() }; 8];
    BOOKS[bits - 1].get_or_init(|| solve(1 << bits))
}

fn solve(count: usize) -> Levels {
    let mut book = Levels {
        values: vec![0.0; count],
        thresholds: Vec::new(),
    };
    for _ in 0..STEPS {
        book.thresholds = book
            .values
            .windows(2)
            .map(|w| (w[0] + w[1]) / 2.0)
            .collect();
        let inner = book.thresholds.iter().map(|&x| cumulative(x));
        let bounds: Vec<f64> = [0.0].into_iter().chain(inner).chain([1.0]).collect();
        book.values = bounds
            .windows(2)
            .map(|w| quantile((w[0] + w[1]) / 2.0))
            .collect();
    }
    book
}

/// Phi(x) = erfc(-x / sqrt(2)) / 2.
fn cumulative(x: f64) -> f64 {
    libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) / 2.0
}

/// The x of Phi(x) = p by Halley's iteration from the logistic approximation.
fn quantile(p: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let start = (p / (1.0 - p)).ln() / 1.702;
    (0..12).fold(start, |x, _| {
        let u = (cumulative(x) - p) / density(x);
        x - u / (1.0 + x * u / 2.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_invert_the_distribution() {
        for p in [1e-4, 0.01, 0.25, 0.5, 0.9, 0.9999] {
            assert!((cumulative(quantile(p)) - p).abs() < 1e-13, "{p}");
        }
    }

    #[test]
    fn one_bit_is_the_median_of_the_half_normal_distribution() {
        let book = codebook(1);
        assert!((book.values[1] - 0.674_489_750_196_081_7).abs() < 1e-12);
        assert!((book.values[0] + book.values[1]).abs() < 1e-12);
        assert_eq!((book.code(-0.1), book.code(0.1)), (0, 1));
    }

    #[test]
    fn every_code_is_that_of_the_nearest_value() {
        for bits in 1..=8 {
            let book = codebook(bits);
            assert_eq!(book.values.len(), 1 << bits);
            assert!(book.values.windows(2).all(|pair| pair[0] <= pair[1]));
            // Symmetric, and each value codes itself.
            for (code, value) in book.values.iter().enumerate() {
                assert_eq!(book.values[usize::from(book.code(*value))], *value);
                let mirrored = book.values[(1 << bits) - 1 - code];
                assert!((value + mirrored).abs() < 1e-9);
            }
            for step in -40..40 {
                let z = f64::from(step) / 10.0 + 0.013;
                let distance = |code: usize| (z - book.values[code]).abs();
                let best = (0..1 << bits).min_by(|&a, &b| distance(a).total_cmp(&distance(b)));
                assert!(distance(usize::from(book.code(z))) <= distance(best.unwrap()) + 1e-9);
            }
        }
    }
}
