//! Softmax from elementary operations.

use burn::tensor::Tensor;

/// exp(x_i) / sum_j exp(x_j) along a dimension. Rounded alike with and without a gradient tape,
/// which the backends' fused softmax is not.
pub(crate) fn softmax<const D: usize>(x: Tensor<D>, dim: usize) -> Tensor<D> {
    let largest = x.clone().detach().max_dim(dim);
    let powers = (x - largest).exp();
    let sum = powers.clone().sum_dim(dim);
    powers / sum
}
