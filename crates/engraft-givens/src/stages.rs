//! Parallel stages of plane maps.

use burn::tensor::Tensor;
use engraft_core::LayerShape;

/// Whether a layer has a pair of inputs to rotate: the reason if not.
pub(crate) fn admit_pairs(layer: &LayerShape) -> Result<(), String> {
    if layer.d_in >= 2 {
        Ok(())
    } else {
        Err(format!(
            "d_in = {} has no pair of inputs to rotate; expected at least 2",
            layer.d_in
        ))
    }
}

/// d - 1 maps of planes, G_p = [[g00, g01], [g10, g11]], in the order of the stages.
///
/// Stage r = 1, 2, ... acts on the coordinates that are multiples of 2^(r-1), in order: the first
/// with the second, the third with the fourth, and so on, so that pair k joins 2^r k and
/// 2^r k + 2^(r-1) = 2^(r-1) (2k + 1). A coordinate left over where their number is odd is passed
/// on unchanged. The first of each pair and the one left over meet again at stage r + 1, until one
/// is left: each pair retires one coordinate, so that there are d - 1 pairs in ceil(log2 d) stages,
/// whatever d is. For a power of two this is the paper's P_r = prod_k G(2^r k, 2^(r-1) (2k + 1));
/// for other widths it is the authors' code.
///
/// The whole is R = P_S ... P_2 P_1, where P_r has the entries of G_p in the rows and columns of
/// the pair p.
#[derive(Debug, Clone)]
pub struct PlaneMaps {
    /// g00, g01, g10, g11, each [d - 1].
    entries: [Tensor<1>; 4],
}

impl PlaneMaps {
    /// Maps from the entries g00, g01, g10, g11, each [d - 1].
    pub fn new(entries: [Tensor<1>; 4]) -> Self {
        Self { entries }
    }

    /// x R for tokens x [tokens, d], in O(tokens d): the last stage acts first, on 2 coordinates,
    /// and the first stage last, on all.
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        // (x R)^T = P_1^T ... P_S^T x^T.
        let [g00, g01, g10, g11] = self.entries.clone();
        Self::new([g00, g10, g01, g11])
            .last_first(x.transpose(), 0)
            .transpose()
    }

    /// R W for W [d, d_out], in O(d d_out).
    pub fn apply_rows(&self, weight: Tensor<2>) -> Tensor<2> {
        self.first_first(weight, 0)
    }

    // Coordinates are rows below: a row is contiguous, so that pairing rows is copying blocks.

    /// P_r ... P_S z on the coordinates z of stage r, whose maps start at `first`.
    fn last_first(&self, z: Tensor<2>, first: usize) -> Tensor<2> {
        let half = z.dims()[0] / 2;
        if half == 0 {
            return z;
        }
        let (kept, retired) = split(z);
        let kept = self.last_first(kept, first + half);
        let (kept, retired) = self.mix(kept, retired, first);
        join(kept, retired)
    }

    /// P_S ... P_r z on the coordinates z of stage r, whose maps start at `first`.
    fn first_first(&self, z: Tensor<2>, first: usize) -> Tensor<2> {
        let half = z.dims()[0] / 2;
        if half == 0 {
            return z;
        }
        let (kept, retired) = split(z);
        let (kept, retired) = self.mix(kept, retired, first);
        join(self.first_first(kept, first + half), retired)
    }

    /// G_k (a_k, b_k)^T for the pairs k of one stage; a coordinate of a left over stays.
    fn mix(&self, a: Tensor<2>, b: Tensor<2>, first: usize) -> (Tensor<2>, Tensor<2>) {
        let half = b.dims()[0];
        let [g00, g01, g10, g11] = self
            .entries
            .each_ref()
            .map(|entry| entry.clone().narrow(0, first, half).unsqueeze_dim::<2>(1));
        let paired = a.clone().narrow(0, 0, half);
        let kept = paired.clone() * g00 + b.clone() * g01;
        let retired = paired * g10 + b * g11;
        (with_left_over(kept, &a, half), retired)
    }
}

/// `paired` with the rows of `all` from `from` on behind it.
fn with_left_over(paired: Tensor<2>, all: &Tensor<2>, from: usize) -> Tensor<2> {
    match all.dims()[0] - from {
        0 => paired,
        left => Tensor::cat(vec![paired, all.clone().narrow(0, from, left)], 0),
    }
}

/// The even rows of z [d, n], [ceil(d / 2), n], and the odd ones, [floor(d / 2), n].
fn split(z: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let [d, n] = z.dims();
    let half = d / 2;
    let pairs = z.clone().narrow(0, 0, 2 * half).reshape([half, 2, n]);
    let rows = |place: usize| pairs.clone().narrow(1, place, 1).reshape([half, n]);
    (with_left_over(rows(0), &z, 2 * half), rows(1))
}

/// Undoes [`split`].
fn join(even: Tensor<2>, odd: Tensor<2>) -> Tensor<2> {
    let [half, n] = odd.dims();
    let pairs: Tensor<3> = Tensor::stack(vec![even.clone().narrow(0, 0, half), odd], 1);
    with_left_over(pairs.reshape([2 * half, n]), &even, half)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::{Init, Key, bridge};
    use proptest::prelude::*;

    use super::*;

    /// The pairs of every stage, one by one, from the definition.
    fn pairs(d: usize) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        let mut stride = 1;
        while stride < d {
            pairs.extend(
                (0..d)
                    .step_by(2 * stride)
                    .filter(|i| i + stride < d)
                    .map(|i| (i, i + stride)),
            );
            stride *= 2;
        }
        pairs
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn stages_are_the_product_of_their_maps(d in 2usize..40, rows in 1usize..4, seed: u64) {
            let pairs = pairs(d);
            prop_assert_eq!(pairs.len(), d - 1);
            let (device, key) = (Device::default(), Key::new(seed));
            let entries = ["g00", "g01", "g10", "g11"].map(|name| Init::Normal { std: 1.0 }.values(d - 1, &key.child(name)));
            let x = Init::Normal { std: 1.0 }.values(rows * d, &key.child("x"));
            // x R = x P_S ... P_1, map by map.
            let mut expected = x.clone();
            for (p, (i, j)) in pairs.into_iter().enumerate().rev() {
                for row in expected.chunks_mut(d) {
                    let (a, b) = (row[i], row[j]);
                    row[i] = a * entries[0][p] + b * entries[2][p];
                    row[j] = a * entries[1][p] + b * entries[3][p];
                }
            }
            let scale = expected.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
            let tensor = |values: &Vec<f64>| bridge::tensor(values.clone(), [values.len()], &device, DType::F64);
            let maps = PlaneMaps::new(entries.each_ref().map(tensor));
            let x = bridge::tensor(x, [rows, d], &device, DType::F64);
            let close = |found: &Tensor<2>, expected: &[f64]| {
                bridge::values(found).iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-13 * scale * d as f64)
            };
            prop_assert!(close(&maps.apply(x.clone()), &expected));
            // R W, through R itself.
            let identity = bridge::tensor((0..d * d).map(|at| f64::from(u8::from(at / d == at % d))).collect(), [d, d], &device, DType::F64);
            let weight = x.transpose();
            let product = maps.apply(identity).matmul(weight.clone());
            prop_assert!(close(&maps.apply_rows(weight), &bridge::values(&product)));
        }
    }
}
