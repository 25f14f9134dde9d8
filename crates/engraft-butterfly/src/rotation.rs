//! Block-diagonal matrices applied to tokens.

use burn::tensor::Tensor;

/// x R for tokens x [tokens, d] and R block-diagonal with blocks [n, b, b], n b = d, in
/// O(tokens d b). A single block [1, b, b] is shared by all d / b places.
pub fn rotate(x: Tensor<2>, blocks: Tensor<3>) -> Tensor<2> {
    let [tokens, d] = x.dims();
    let [n, b, _] = blocks.dims();
    if n == 1 {
        return x
            .reshape([tokens * (d / b), b])
            .matmul(blocks.reshape([b, b]))
            .reshape([tokens, d]);
    }
    x.reshape([tokens, n, b])
        .swap_dims(0, 1)
        .matmul(blocks)
        .swap_dims(0, 1)
        .reshape([tokens, d])
}

/// R W for a weight W [d, d_out]: the rotation as the weight form sees it.
pub fn rotate_rows(weight: Tensor<2>, blocks: Tensor<3>) -> Tensor<2> {
    rotate(weight.transpose(), blocks.swap_dims(1, 2)).transpose()
}
