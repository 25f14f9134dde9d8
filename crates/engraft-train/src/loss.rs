//! Losses.

use burn::tensor::{Int, Tensor, activation};

/// The mean of -log softmax(logits)\[label\] over the rows of [batch, classes], as `[1]`.
///
/// The softmax is shifted by the row's maximum, so that no logit overflows.
///
/// # Panics
/// If the numbers of rows and labels differ.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let [rows] = labels.dims();
    assert_eq!(logits.dims()[0], rows, "as many labels as rows of logits");
    activation::log_softmax(logits, 1)
        .gather(1, labels.reshape([rows, 1]))
        .mean()
        .neg()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge::{tensor, values};

    use super::*;

    #[test]
    fn it_is_the_negative_log_likelihood_and_does_not_overflow() {
        let device = Device::default();
        let logits = tensor(
            vec![0.0, 1.0, 2.0, 1e4, 0.0, -1e4],
            [2, 3],
            &device,
            DType::F64,
        );
        let loss = cross_entropy(logits, Tensor::from_ints([2, 0], &device));
        let first = (1.0 + 1f64.exp() + 2f64.exp()).ln() - 2.0;
        assert!((values(&loss)[0] - first / 2.0).abs() < 1e-14);
    }
}
