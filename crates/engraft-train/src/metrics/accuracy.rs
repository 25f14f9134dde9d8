//! Rows whose class is right.

use burn::tensor::{Int, Tensor};

/// Number of rows of [batch, classes] whose largest logit is the label's.
///
/// # Panics
/// If the numbers of rows and labels differ.
pub fn correct(logits: Tensor<2>, labels: Tensor<1, Int>) -> usize {
    let rows = logits.dims()[0];
    assert_eq!(labels.dims(), [rows], "as many labels as rows of logits");
    let hits = logits.argmax(1).reshape([rows]).equal(labels).int().sum();
    usize::try_from(hits.into_scalar::<i64>()).expect("a count")
}

/// Share of rows whose largest logit is the label's; 0 if there is none.
pub fn accuracy(logits: Tensor<2>, labels: Tensor<1, Int>) -> f64 {
    match labels.dims()[0] {
        0 => 0.0,
        rows => correct(logits, labels) as f64 / rows as f64,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge::tensor;

    use super::*;

    #[test]
    fn hits_are_counted() {
        let device = Device::default();
        let logits = tensor(
            vec![0.0, 1.0, 3.0, 2.0, -1.0, -2.0, 5.0, 6.0],
            [4, 2],
            &device,
            DType::F32,
        );
        assert_eq!(
            accuracy(logits, Tensor::from_ints([1, 0, 1, 1], &device)),
            0.75
        );
    }
}
