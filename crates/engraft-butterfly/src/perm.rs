//! The butterfly permutation, as a reshape.

use burn::tensor::Tensor;

/// x P of factor `stage`: x [tokens, d] so that the members of each block of `stage` lie together.
///
/// d is cut into groups of 2^stage blocks of size b, and a group into half blocks of size b / 2.
/// The block h of a group then consists of the half blocks h and h + 2^stage, that is, the stride
/// between the halves doubles with each factor. Stage 0 is the identity.
pub fn to_blocks(x: Tensor<2>, block: usize, stage: usize) -> Tensor<2> {
    swap_halves(x, block, [2, 1 << stage])
}

/// x P^T: undoes [`to_blocks`].
pub fn from_blocks(x: Tensor<2>, block: usize, stage: usize) -> Tensor<2> {
    swap_halves(x, block, [1 << stage, 2])
}

/// Transposes the `grid` of half blocks in each group.
fn swap_halves(x: Tensor<2>, block: usize, [rows, cols]: [usize; 2]) -> Tensor<2> {
    if rows * cols == 2 {
        return x;
    }
    let [tokens, d] = x.dims();
    let half = block / 2;
    x.reshape([tokens, d / (rows * cols * half), rows, cols, half])
        .swap_dims(2, 3)
        .reshape([tokens, d])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge;

    use super::*;

    #[test]
    fn halves_at_the_stride_of_the_stage_meet_in_a_block() {
        let (d, block) = (32, 4);
        let row = bridge::tensor(
            (0..d).map(|i| i as f64).collect(),
            [1, d],
            &Device::default(),
            DType::F64,
        );
        for stage in 0..4 {
            let there = to_blocks(row.clone(), block, stage);
            let group = block << stage;
            for (place, value) in bridge::values(&there).into_iter().enumerate() {
                let (base, inside) = (place / group * group, place % group);
                let (h, parity, within) = (inside / block, inside % block / 2, inside % 2);
                assert_eq!(
                    value as usize,
                    base + (parity * (1 << stage) + h) * 2 + within
                );
            }
            assert_eq!(
                bridge::values(&from_blocks(there, block, stage)),
                bridge::values(&row)
            );
        }
    }
}
