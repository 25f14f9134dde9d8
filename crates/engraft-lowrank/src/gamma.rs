//! Functions of the gamma distribution's family, entry by entry, for positive arguments.

use burn::tensor::Tensor;

/// Steps of the recurrence before the asymptotic series is taken: there its error is below 1e-11.
const SHIFT: usize = 10;

/// ln Gamma(x), by Stirling's series (Abramowitz and Stegun 6.1.40).
pub(crate) fn ln_gamma(x: Tensor<1>) -> Tensor<1> {
    let z = x.clone() + SHIFT as f64;
    let inverse = z.clone().recip();
    let square = inverse.clone() * inverse.clone();
    let tail = inverse * ((square.clone() * (1.0 / 1260.0) - 1.0 / 360.0) * square + 1.0 / 12.0);
    let half_log_tau = 0.5 * std::f64::consts::TAU.ln();
    let series = (z.clone() - 0.5) * z.clone().log() - z + tail + half_log_tau;
    (0..SHIFT).fold(series, |value, k| value - (x.clone() + k as f64).log())
}

/// psi(x), the derivative of ln Gamma (6.3.18).
pub(crate) fn digamma(x: Tensor<1>) -> Tensor<1> {
    let z = x.clone() + SHIFT as f64;
    let inverse = z.clone().recip();
    let square = inverse.clone() * inverse.clone();
    let bracket = (square.clone() * (1.0 / 252.0) - 1.0 / 120.0) * square.clone() + 1.0 / 12.0;
    let series = z.log() - inverse * 0.5 - square * bracket;
    (0..SHIFT).fold(series, |value, k| value - (x.clone() + k as f64).recip())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge;

    use super::*;

    #[test]
    fn known_values() {
        let at = |x: Vec<f64>| bridge::tensor(x, [4], &Device::default(), DType::F64);
        let close = |found: Tensor<1>, expected: [f64; 4]| {
            for (found, expected) in bridge::values(&found).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-10, "{found} {expected}");
            }
        };
        let x = vec![0.1, 0.5, 1.0, 7.0];
        let half = 0.5 * std::f64::consts::PI.ln();
        close(
            ln_gamma(at(x.clone())),
            [2.252_712_651_734_206, half, 0.0, 720f64.ln()],
        );
        let euler = 0.577_215_664_901_532_9;
        let seven = -euler + (1..7).map(|k| 1.0 / f64::from(k)).sum::<f64>();
        close(
            digamma(at(x)),
            [
                -10.423_754_940_411_076,
                -euler - 2.0 * 2f64.ln(),
                -euler,
                seven,
            ],
        );
    }
}
