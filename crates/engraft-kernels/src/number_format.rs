//! Numbers of 2, 4 and 8 bits between -1 and 1.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::Levels;

/// The numbers that a quantised weight consists of, before each block is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NumberFormat {
    /// k / 127 for whole k from -127 to 127: 8 bits.
    Int8,
    /// k / 7 for whole k from -7 to 7: 4 bits.
    Int4,
    /// Quantiles of the normal distribution, 0 among them: 4 bits. Dettmers et al., QLoRA, arXiv
    /// 2305.14314, appendix E.
    Nf4,
    /// Sign, two bits of exponent and one of fraction, as bitsandbytes has it: 4 bits.
    Fp4,
    /// The quantiles of NF4's construction for 2 bits: -1, 0, 0.338, 1. Li et al., LoftQ, arXiv
    /// 2310.08659.
    Nf2,
}

/// Single precision, as bitsandbytes and the appendix have them.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Twelve times the magnitudes of FP4; the smallest is subnormal.
const FP4: [f32; 8] = [0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// The positive one of NF2 between 0 and 1, which is NF4's as well: both are the quantile half way
/// from the median to the outermost, divided by the outermost.
const NF2: [f32; 4] = [-1.0, 0.0, NF4[11], 1.0];

impl NumberFormat {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Int8, Self::Int4, Self::Nf4, Self::Fp4, Self::Nf2];

    /// Bits of a number: 2, 4 or 8.
    pub fn bits(self) -> usize {
        match self {
            Self::Int8 => 8,
            Self::Int4 | Self::Nf4 | Self::Fp4 => 4,
            Self::Nf2 => 2,
        }
    }

    /// Name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Nf2 => "nf2",
        }
    }

    /// The numbers. Both -1 and 1 are among them, and 0.
    pub fn levels(self) -> &'static Levels {
        static LEVELS: [OnceLock<Levels>; 5] = [const { OnceLock::new() }; 5];
        LEVELS[self as usize].get_or_init(|| {
            let whole = |most: i16| -> Vec<f32> {
                let all = -most..=most;
                all.map(|k| f32::from(k) / f32::from(most)).collect()
            };
            let values = match self {
                Self::Int8 => whole(127),
                Self::Int4 => whole(7),
                Self::Nf4 => NF4.to_vec(),
                Self::Fp4 => FP4
                    .iter()
                    .flat_map(|m| [m / 12.0, 0.0 - m / 12.0])
                    .collect(),
                Self::Nf2 => NF2.to_vec(),
            };
            Levels::new(values.into_iter().map(f64::from).collect())
        })
    }
}

/// The signed numbers that scales are stored in, 256 of them: 0, 1, and in each decade from 1e-7 to 1
/// twice as many as in the one below, evenly spread. Dettmers, arXiv 1511.04561, as bitsandbytes
/// has it.
pub(crate) fn dynamic() -> &'static Levels {
    static LEVELS: OnceLock<Levels> = OnceLock::new();
    LEVELS.get_or_init(|| {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let count = 1 << decade;
            for k in 0..count {
                let mean = 0.1 + 0.9 * (f64::from(k) + 0.5) / f64::from(count);
                let value = 10f64.powi(decade - 6) * mean;
                values.extend([value, -value].map(|value| f64::from(value as f32)));
            }
        }
        Levels::new(values)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_its_own_nearest_and_the_ends_and_zero_are_exact() {
        for format in NumberFormat::ALL {
            let levels = format.levels();
            let count = levels.values.len();
            assert!(count <= 1 << format.bits() && count > 1 << (format.bits() - 1));
            for (code, &value) in levels.values.iter().enumerate() {
                assert_eq!(usize::from(levels.code(value)), code, "{format:?}");
            }
            assert_eq!(levels.values[0], -1.0);
            assert_eq!(*levels.values.last().unwrap(), 1.0);
            assert!(levels.values.contains(&0.0), "{format:?}");
        }
        assert_eq!(NumberFormat::Int8.levels().values.len(), 255);
        assert_eq!(NumberFormat::Fp4.levels().values.len(), 15);
    }

    #[test]
    fn normal_floats_are_quantiles() {
        // Positive: 2^(b-1) steps from the outermost quantile to the median, negative: one less.
        let offset = (1.0 - 1.0 / 32.0 + 1.0 - 1.0 / 30.0) / 2.0;
        let quantile = |p: f64| -> f64 {
            let cumulative = |x: f64| libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) / 2.0;
            let (mut low, mut high) = (-8.0, 8.0);
            for _ in 0..80 {
                let middle = (low + high) / 2.0;
                match cumulative(middle) < p {
                    true => low = middle,
                    false => high = middle,
                }
            }
            low
        };
        for (format, bits) in [(NumberFormat::Nf4, 4), (NumberFormat::Nf2, 2)] {
            let half = 1 << (bits - 1);
            let ladder = |steps: i32| {
                (0..steps).map(move |k| {
                    let p = offset + (0.5 - offset) * f64::from(k) / f64::from(steps);
                    quantile(p) / quantile(offset)
                })
            };
            let mut expected = vec![0.0];
            expected.extend(ladder(half));
            expected.extend(ladder(half - 1).map(|value| -value));
            let expected = Levels::new(expected);
            let found = &format.levels().values;
            assert_eq!(found.len(), expected.values.len());
            for (found, expected) in found.iter().zip(&expected.values) {
                assert!((found - expected).abs() < 2e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn numbers_for_scales_are_256() {
        let levels = dynamic();
        assert_eq!(levels.values.len(), 256);
        assert_eq!(levels.values[255], 1.0);
        assert!((levels.values[254] - 0.992_968_75).abs() < 1e-7);
        assert!((levels.values[0] + 0.992_968_75).abs() < 1e-7);
        assert!((levels.values[128] - 5.5e-7).abs() < 1e-12);
    }
}
