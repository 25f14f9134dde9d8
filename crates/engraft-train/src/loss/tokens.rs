//! Losses of tokens.

use burn::tensor::{Int, Tensor};

use crate::loss::CrossEntropy;

/// The cross entropy of each token's logits with the label of the token after it: logits
/// [batch, tokens, vocabulary], labels [batch, tokens]. The labels of the first tokens, and ignored
/// ones, count for nothing.
///
/// # Panics
/// If the shapes do not fit, or there are fewer than two tokens.
pub fn next_token(settings: &CrossEntropy, logits: Tensor<3>, labels: Tensor<2, Int>) -> Tensor<1> {
    let [batch, tokens, _] = logits.dims();
    assert!(tokens > 1, "found {tokens} tokens, expected at least 2");
    assert_eq!(labels.dims(), [batch, tokens], "as many labels as tokens");
    same_token(
        settings,
        logits.narrow(1, 0, tokens - 1),
        labels.narrow(1, 1, tokens - 1),
    )
}

/// The cross entropy of each token's logits with its own label: logits [batch, tokens, classes],
/// labels [batch, tokens]. Ignored labels count for nothing.
///
/// # Panics
/// If the shapes do not fit.
pub fn same_token(settings: &CrossEntropy, logits: Tensor<3>, labels: Tensor<2, Int>) -> Tensor<1> {
    let [batch, tokens, classes] = logits.dims();
    assert_eq!(labels.dims(), [batch, tokens], "as many labels as tokens");
    settings.loss(
        logits.reshape([batch * tokens, classes]),
        labels.reshape([batch * tokens]),
    )
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_data::text::IGNORED;
    use engraft_tensor::bridge::{tensor, values};

    use super::*;

    #[test]
    fn a_token_predicts_the_next_one_that_counts() {
        let device = Device::default();
        let entries: Vec<f64> = (0..24).map(|i| f64::from(i * 7 % 11) / 4.0).collect();
        let logits = tensor(
            entries.clone(),
            [2, 3, 4],
            &device.clone().autodiff(),
            DType::F64,
        )
        .require_grad();
        let labels = Tensor::<2, Int>::from_ints([[3, 1, IGNORED], [0, IGNORED, 2]], &device);
        let loss = next_token(&CrossEntropy::default(), logits.clone(), labels);
        let one = |row: usize, label: usize| {
            let row = &entries[4 * row..4 * row + 4];
            row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label]
        };
        // The first token of the first text predicts 1, the second of the second text predicts 2.
        let expected = (one(0, 1) + one(4, 2)) / 2.0;
        assert!((values(&loss)[0] - expected).abs() < 1e-14);
        let gradient = values(&logits.grad(&loss.backward()).unwrap());
        let moved: Vec<bool> = gradient
            .chunks(4)
            .map(|row| row.iter().any(|g| *g != 0.0))
            .collect();
        assert_eq!(moved, [true, false, false, false, true, false]);
    }
}
