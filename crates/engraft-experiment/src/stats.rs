//! Means and intervals over seeds.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The mean.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sample standard deviation, with n - 1 in the denominator; `None` below two values.
#[must_use]
pub fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// A mean with the half-width of its two-sided 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval; `None` for a single value.
    pub half_width: Option<f64>,
}

impl Interval {
    /// Student's interval of the mean: mean ± t(0.975, n - 1) s / sqrt(n); `None` without values.
    #[must_use]
    pub fn student(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let half_width = deviation(values).map(|deviation| {
            let freedom = (values.len() - 1) as f64;
            let quantile = StudentsT::new(0.0, 1.0, freedom)
                .expect("at least one degree of freedom")
                .inverse_cdf(0.975);
            quantile * deviation / (values.len() as f64).sqrt()
        });
        Some(Self {
            mean: mean(values),
            half_width,
        })
    }

    /// Whether the value lies inside.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (value - self.mean).abs() <= self.half_width.unwrap_or(0.0)
    }
}

/// The interval of the differences `a[i] - b[i]` of paired values; `None` when the numbers of
/// values differ or are zero.
#[must_use]
pub fn paired_difference(a: &[f64], b: &[f64]) -> Option<Interval> {
    if a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    Interval::student(&differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
    }

    /// Quantiles t(0.975, df) of the printed tables of the distribution.
    #[test]
    fn the_interval_uses_the_tabulated_quantiles() {
        for (count, quantile) in [
            (2, 12.706_204_736),
            (3, 4.302_652_730),
            (5, 2.776_445_105),
            (11, 2.228_138_852),
        ] {
            let values: Vec<f64> = (0..count).map(f64::from).collect();
            let interval = Interval::student(&values).unwrap();
            let expected = quantile * deviation(&values).unwrap() / f64::from(count).sqrt();
            let half_width = interval.half_width.unwrap();
            assert!(
                (half_width - expected).abs() < 1e-7 * expected,
                "{half_width} {expected}"
            );
        }
    }

    /// Student's own sleep data (1908): extra hours of two drugs on ten patients. The mean
    /// difference is 1.58 with 95% interval 0.7001142 to 2.4598858, as R's `t.test` prints it.
    #[test]
    fn the_paired_difference_is_that_of_students_sleep_data() {
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let interval = paired_difference(&second, &first).unwrap();
        assert!(close(interval.mean, 1.58));
        assert!((interval.mean - interval.half_width.unwrap() - 0.700_114_2).abs() < 1e-6);
        assert!(interval.contains(1.0) && !interval.contains(0.0));
        assert_eq!(paired_difference(&first, &second[1..]), None);
    }

    #[test]
    fn one_value_has_no_interval() {
        assert_eq!(Interval::student(&[]), None);
        assert_eq!(
            Interval::student(&[3.0]),
            Some(Interval {
                mean: 3.0,
                half_width: None
            })
        );
    }

    proptest! {
        #[test]
        fn shifting_moves_the_mean_alone(values in prop::collection::vec(-1.0..1.0_f64, 2..20), shift in -5.0..5.0_f64) {
            let shifted: Vec<f64> = values.iter().map(|value| value + shift).collect();
            let (a, b) = (Interval::student(&values).unwrap(), Interval::student(&shifted).unwrap());
            prop_assert!(close(a.mean + shift, b.mean));
            prop_assert!((a.half_width.unwrap() - b.half_width.unwrap()).abs() < 1e-9 * (1.0 + a.half_width.unwrap()) * 10.0);
        }
    }
}
