//! Rotations from skew-symmetric matrices, in batches of blocks.

use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_kernels::Rotations;
use serde::{Deserialize, Serialize};

use crate::ops::rotations;
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
    /// Rotations [n, b, b] from the skew-symmetric parts Q = (A - A^T) / 2 of matrices A: [n, b, b].
    ///
    /// On flex they are one operation with a backward pass of its own; exact ones are inverted in
    /// double precision, whatever that of A.
    pub fn rotations(self, a: Tensor<3>) -> Tensor<3> {
        let [n, size, _] = a.dims();
        let values = a.reshape([n, size * size]);
        rotations(self.kernel(size, false), values)
            .unwrap_or_else(|values| self.composed(skew_part(values.reshape([n, size, size]))))
    }

    /// Rotations [n, b, b] from the strictly upper triangles of Q, packed row by row:
    /// [n, b (b - 1) / 2]; see [`skew_from_upper`].
    pub fn from_upper(self, packed: Tensor<2>, size: usize) -> Tensor<3> {
        rotations(self.kernel(size, true), packed)
            .unwrap_or_else(|packed| self.composed(skew_from_upper(packed, size)))
    }

    fn kernel(self, size: usize, packed: bool) -> Rotations {
        let last_power = match self {
            Self::Exact => None,
            Self::Neumann { terms: ..=2 } => Some(1),
            Self::Neumann { terms } => Some(terms.max(4) - 1),
        };
        Rotations {
            size,
            packed,
            last_power,
        }
    }

    /// Rotations of skew-symmetric matrices by Burn's operations.
    fn composed(self, q: Tensor<3>) -> Tensor<3> {
        let identity = eye(q.dims()[1], &q.device(), q.dtype());
        let Some(last) = self.kernel(1, false).last_power else {
            // (I - Q)(I + Q)^-1 = 2 (I + Q)^-1 - I.
            return inverse(q + identity.clone()) * 2.0 - identity;
        };
        let mut sum = q.clone() * 2.0 + identity;
        let mut power = q.clone();
        for exponent in 2..=last {
            power = power.matmul(q.clone());
            let weight = if exponent < last { 2.0 } else { 1.0 };
            sum = sum + power.clone() * weight;
        }
        sum
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
    fn values_and_gradients_equal_the_composition() {
        use crate::ops::testing::agree;
        let series = |terms| Cayley::Neumann { terms };
        for cayley in [Cayley::Exact, series(2), series(4), series(6)] {
            for [n, size] in [[1, 2], [3, 5], [2, 17]] {
                let terms = 20 * size;
                agree(&[&[n, size, size]], terms, |x, fast| {
                    let a = x[0].tensor::<3>() * 0.2;
                    if fast {
                        cayley.rotations(a)
                    } else {
                        cayley.composed(skew_part(a))
                    }
                });
                agree(&[&[n, size * (size - 1) / 2]], terms, |x, fast| {
                    let packed = x[0].matrix() * 0.2;
                    if fast {
                        cayley.from_upper(packed, size)
                    } else {
                        cayley.composed(skew_from_upper(packed, size))
                    }
                });
            }
        }
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
