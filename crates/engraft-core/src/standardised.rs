//! The part of a layer norm that has no parameters.

use burn::tensor::Tensor;

/// Added to the variance before the root, as in PyTorch's LayerNorm.
const EPS: f64 = 1e-5;

/// Each row of `hidden` [tokens, width] with mean 0 and variance 1.
pub fn standardised(hidden: Tensor<2>) -> Tensor<2> {
    let centred = hidden.clone() - hidden.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / (variance + EPS).sqrt()
}
