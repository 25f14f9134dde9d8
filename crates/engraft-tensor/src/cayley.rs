//! Rotations from skew-symmetric matrices, in batches of blocks.

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{bridge, inverse};

/// How a block R of a rotation is made from a skew-symmetric Q.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cayley {
    /// R = (I - Q)(I + Q)^-1, orthogonal to rounding.
    #[default]
    Exact,
    /// The truncated Neumann series of the inverse rotation (I + Q)(I - Q)^-1:
    /// R = I + 2 Q + ... + 2 Q^(k-2) + Q^(k-1), orthogonal up to O(|Q|^k). PEFT's series: the last
    /// power has weight 1, two terms are I + 2 Q, and three are the same as four.
    Neumann {
        /// Number of terms k, at least 2.
        terms: usize,
    },
}

impl Cayley {
    /// Rotations [n, b, b] from skew-symmetric matrices [n, b, b].
    pub fn rotations(self, q: Tensor<3>) -> Tensor<3> {
        let identity = eye(q.dims()[1], &q.device(), q.dtype());
        match self {
            // (I - Q)(I + Q)^-1 = 2 (I + Q)^-1 - I.
            Self::Exact => inverse(q + identity.clone()) * 2.0 - identity,
            Self::Neumann { terms: ..=2 } => q * 2.0 + identity,
            Self::Neumann { terms } => {
                let last = terms.max(4) - 1;
                let mut sum = q.clone() * 2.0 + identity;
                let mut power = q.clone();
                for exponent in 2..=last {
                    power = power.matmul(q.clone());
                    sum = sum
                        + if exponent < last {
                            power.clone() * 2.0
                        } else {
                            power.clone()
                        };
                }
                sum
            }
        }
    }

    /// Whether the series has enough terms: the reason if not.
    ///
    /// # Errors
    /// The sentence for a method's validation.
    pub fn validate(self) -> Result<(), String> {
        match self {
            Self::Neumann {
                terms: terms @ ..=1,
            } => Err(format!(
                "{terms} Neumann terms: expected at least 2, one term is the identity whatever Q"
            )),
            _ => Ok(()),
        }
    }
}

/// I, [1, b, b].
pub fn eye(size: usize, device: &Device, dtype: DType) -> Tensor<3> {
    let values = (0..size * size)
        .map(|place| f64::from(u8::from(place / size == place % size)))
        .collect();
    bridge::tensor(values, [1, size, size], device, dtype)
}

/// Skew-symmetric matrices U - U^T, [n, b, b], from the strictly upper triangles U, packed row by
/// row: [n, b (b - 1) / 2].
pub fn skew_from_upper(packed: Tensor<2>, size: usize) -> Tensor<3> {
    let [n, packed_len] = packed.dims();
    let place = |row: usize, col: usize| row * (2 * size - row - 1) / 2 + col - row - 1;
    // Each entry's place in a row of [U, -U, 0].
    let index = (0..size * size).map(|entry| match (entry / size, entry % size) {
        (row, col) if row < col => place(row, col),
        (row, col) if row > col => packed_len + place(col, row),
        _ => 2 * packed_len,
    });
    let index = Tensor::from_data(
        TensorData::new(
            index.map(|place| place as i64).collect::<Vec<_>>(),
            [size * size],
        ),
        &packed.device(),
    );
    let zero = packed.clone().narrow(1, 0, 1).zeros_like();
    Tensor::cat(vec![packed.clone(), packed.neg(), zero], 1)
        .select(1, index)
        .reshape([n, size, size])
}

/// The skew-symmetric parts (A - A^T) / 2 of matrices [n, b, b].
pub fn skew_part(a: Tensor<3>) -> Tensor<3> {
    (a.clone() - a.swap_dims(1, 2)) * 0.5
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Init, Key};

    fn random_skew(n: usize, size: usize, std: f64, seed: u64, dtype: DType) -> Tensor<3> {
        let packed = Init::Normal { std }.tensor(
            [n, size * (size - 1) / 2],
            &Key::new(seed),
            &Device::default(),
            dtype,
        );
        skew_from_upper(packed, size)
    }

    fn largest<const D: usize>(x: Tensor<D>) -> f64 {
        bridge::values(&x)
            .iter()
            .fold(0.0, |largest, value| value.abs().max(largest))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn exact_rotations_are_orthogonal_in_both_precisions(n in 1usize..4, size in 2usize..20, std in 0.01f64..3.0, seed: u64) {
            for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 2e-15)] {
                let q = random_skew(n, size, std, seed, dtype);
                prop_assert_eq!(largest(q.clone() + q.clone().swap_dims(1, 2)), 0.0);
                let r = Cayley::Exact.rotations(q.clone());
                let identity = eye(size, &q.device(), dtype);
                let gram = r.clone().matmul(r.clone().swap_dims(1, 2));
                // The condition of I + Q is at most about 1 + 2 std sqrt(size).
                let scale = 1.0 + 2.0 * std * (size as f64).sqrt();
                prop_assert!(largest(gram - identity.clone()) < tolerance * scale);
                // R (I + Q) = I - Q.
                let residual = r.matmul(q.clone() + identity.clone()) - (identity - q);
                prop_assert!(largest(residual) < tolerance * scale * scale);
            }
        }
    }

    #[test]
    fn the_series_approaches_the_inverse_rotation() {
        let q = random_skew(2, 6, 0.02, 3, DType::F64);
        let exact = Cayley::Exact.rotations(q.clone().neg());
        let error = |terms| largest(Cayley::Neumann { terms }.rotations(q.clone()) - exact.clone());
        let size = largest(q.clone()) * 6.0;
        for terms in [2, 3, 4, 5, 6, 8] {
            // The remainder starts at Q^2 for two terms, at Q^(k - 1) for k.
            let first_missing = if terms == 2 { 2 } else { terms.max(4) - 1 };
            assert!(
                error(terms) < 4.0 * size.powi(first_missing as i32),
                "{terms}: {}",
                error(terms)
            );
        }
        assert_eq!(error(3), error(4));
    }

    #[test]
    fn the_gradient_of_the_inverse_is_its_derivative() {
        let device = Device::default().autodiff();
        let packed: Tensor<2> =
            Init::Normal { std: 0.7 }.tensor([2, 10], &Key::new(5), &device, DType::F64);
        let weights: Tensor<3> =
            Init::Normal { std: 1.0 }.tensor([2, 5, 5], &Key::new(6), &device, DType::F64);
        let loss = |packed: Tensor<2>| {
            (Cayley::Exact.rotations(skew_from_upper(packed, 5)) * weights.clone()).sum()
        };
        let leaf = packed.clone().require_grad();
        let gradient = bridge::values(&leaf.grad(&loss(leaf.clone()).backward()).expect("a leaf"));
        let start = bridge::values(&packed);
        let step = 1e-5;
        for place in 0..start.len() {
            let moved = |by: f64| {
                let mut values = start.clone();
                values[place] += by;
                bridge::values(&loss(bridge::tensor(values, [2, 10], &device, DType::F64)))[0]
            };
            let central = (moved(step) - moved(-step)) / (2.0 * step);
            assert!(
                (gradient[place] - central).abs() < 1e-8,
                "{place}: {} against {central}",
                gradient[place]
            );
        }
    }
}
