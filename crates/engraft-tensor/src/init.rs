//! Host-side initialisers.

use burn::tensor::{DType, Device, Tensor};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use crate::{Key, bridge};

/// How a tensor's entries are drawn. Draws are made in f64 and rounded once, so that an f32 and an
/// f64 run start from the same point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Every entry the same.
    Constant(f64),
    /// N(0, std^2).
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// N(0, std^2) without what lies beyond two standard deviations.
    TruncatedNormal {
        /// Standard deviation of the normal distribution that is truncated.
        std: f64,
    },
    /// U(-bound, bound).
    Uniform {
        /// Half the width.
        bound: f64,
    },
    /// PyTorch's `kaiming_uniform_(a = sqrt(5))`, the init of its Linear and of LoRA's A:
    /// U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    KaimingUniform {
        /// Number of inputs of one output.
        fan_in: usize,
    },
    /// Sparse signs of unit variance (Li, Hastie and Church 2006): -sqrt(s) and sqrt(s) with
    /// probability 1 / (2 s) each, zero otherwise.
    SparseSign {
        /// s, at least 1.
        sparsity: f64,
    },
}

impl Init {
    /// All zeros.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// All ones.
    pub const ONES: Self = Self::Constant(1.0);

    /// `count` host values from the stream of `key`.
    pub fn values(self, count: usize, key: &Key) -> Vec<f64> {
        let mut rng = key.rng();
        match self {
            Self::Constant(value) => vec![value; count],
            Self::Normal { std } => (0..count)
                .map(|_| {
                    let z: f64 = StandardNormal.sample(&mut rng);
                    std * z
                })
                .collect(),
            Self::TruncatedNormal { std } => (0..count)
                .map(|_| {
                    let mut draws = std::iter::repeat_with(|| StandardNormal.sample(&mut rng));
                    std * draws.find(|z: &f64| z.abs() <= 2.0).expect("endless")
                })
                .collect(),
            Self::Uniform { bound } => (0..count)
                .map(|_| bound * (2.0 * rng.random::<f64>() - 1.0))
                .collect(),
            Self::KaimingUniform { fan_in } => Self::Uniform {
                bound: (fan_in.max(1) as f64).sqrt().recip(),
            }
            .values(count, key),
            Self::SparseSign { sparsity } => (0..count)
                .map(|_| match rng.random::<f64>() * 2.0 * sparsity {
                    draw if draw < 1.0 => -sparsity.sqrt(),
                    draw if draw < 2.0 => sparsity.sqrt(),
                    _ => 0.0,
                })
                .collect(),
        }
    }

    /// A tensor of `shape` in the given precision from the stream of `key`.
    pub fn tensor<const D: usize>(
        self,
        shape: [usize; D],
        key: &Key,
        device: &Device,
        dtype: DType,
    ) -> Tensor<D> {
        bridge::tensor(
            self.values(shape.iter().product(), key),
            shape,
            device,
            dtype,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_bounds_are_the_stated_ones() {
        let n = 40_000;
        let normal = Init::Normal { std: 0.5 }.values(n, &Key::new(1));
        let mean = normal.iter().sum::<f64>() / n as f64;
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / n as f64;
        // Five standard errors of the mean and of the variance.
        assert!(mean.abs() < 5.0 * 0.5 / (n as f64).sqrt());
        assert!((variance - 0.25).abs() < 5.0 * 0.25 * (2.0 / n as f64).sqrt());
        let truncated = Init::TruncatedNormal { std: 0.5 }.values(n, &Key::new(3));
        assert!(truncated.iter().all(|x| x.abs() <= 1.0));
        // 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.7737.
        let variance = truncated.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!((variance / 0.25 - 0.7737).abs() < 0.02, "{variance}");
        let kaiming = Init::KaimingUniform { fan_in: 16 }.values(n, &Key::new(1));
        let largest = kaiming.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(largest <= 0.25 && largest > 0.249);
        let signs = Init::SparseSign { sparsity: 4.0 }.values(n, &Key::new(2));
        assert!(signs.iter().all(|x| *x == 0.0 || x.abs() == 2.0));
        let filled = signs.iter().filter(|x| **x != 0.0).count() as f64 / n as f64;
        assert!((filled - 0.25).abs() < 5.0 * (0.25 * 0.75 / n as f64).sqrt());
    }
}
