//! Skew-symmetric blocks from trained values.

use burn::tensor::Tensor;
use engraft_tensor::cayley::{Cayley, skew_from_upper, skew_part};
use serde::{Deserialize, Serialize};

/// What is trained of a skew-symmetric b x b block Q.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parametrisation {
    /// Its strictly upper triangle, row by row: b (b - 1) / 2 values, its degrees of freedom.
    Skew,
    /// A whole matrix A, of which Q = (A - A^T) / 2 is used: b^2 values.
    Full,
}

impl Parametrisation {
    /// Number of values of a block.
    pub fn width(self, size: usize) -> usize {
        match self {
            Self::Skew => size * (size - 1) / 2,
            Self::Full => size * size,
        }
    }

    /// Rotations of n blocks, [n, b, b], from their values [n, width].
    pub fn rotations(self, cayley: Cayley, values: Tensor<2>, size: usize) -> Tensor<3> {
        match self {
            Self::Skew => cayley.from_upper(values, size),
            Self::Full => {
                let n = values.dims()[0];
                cayley.rotations(values.reshape([n, size, size]))
            }
        }
    }

    /// Q of n blocks, [n, b, b], from their values [n, width].
    pub fn matrices(self, values: Tensor<2>, size: usize) -> Tensor<3> {
        match self {
            Self::Skew => skew_from_upper(values, size),
            Self::Full => {
                let n = values.dims()[0];
                skew_part(values.reshape([n, size, size]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draw, largest};

    #[test]
    fn both_parametrisations_are_skew_symmetric() {
        for (parametrisation, width) in [(Parametrisation::Skew, 10), (Parametrisation::Full, 25)] {
            assert_eq!(parametrisation.width(5), width);
            let q = parametrisation.matrices(draw([3, width], 1, "q"), 5);
            assert_eq!(q.dims(), [3, 5, 5]);
            assert_eq!(largest(q.clone() + q.clone().swap_dims(1, 2)), 0.0);
            assert!(largest(q) > 0.1);
        }
    }
}
