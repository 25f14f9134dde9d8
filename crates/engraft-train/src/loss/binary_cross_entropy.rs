//! Binary cross entropy, for several labels at once.

use burn::tensor::{Tensor, activation};

/// The mean of -t log s(x) - (1 - t) log(1 - s(x)) with the logistic function s, over the entries of
/// logits x and targets t in [0, 1], both [rows, labels], as `[1]`: PyTorch's
/// `binary_cross_entropy_with_logits`.
///
/// # Panics
/// If the shapes differ.
pub fn binary_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let [rows, labels] = logits.dims();
    assert_eq!(targets.dims(), [rows, labels], "as many targets as logits");
    // log s(x) and log(1 - s(x)) are the log softmax of (x, 0): smooth at 0, where |x| is not.
    let pairs: Tensor<3> = Tensor::stack(vec![logits.clone(), logits.zeros_like()], 2);
    let logs = activation::log_softmax(pairs, 2);
    let [yes, no] = [0, 1].map(|of| logs.clone().narrow(2, of, 1).reshape([rows, labels]));
    (targets.clone() * yes + (targets.neg() + 1.0) * no)
        .mean()
        .neg()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge::{tensor, values};

    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_formula_also_at_0_and_far_out() {
        let device = Device::default();
        let (x, t) = (
            [0.0, 2.0, -3.0, 800.0, -800.0, 0.5],
            [1.0, 0.0, 1.0, 1.0, 1.0, 0.25],
        );
        let logits =
            tensor(x.to_vec(), [2, 3], &device.clone().autodiff(), DType::F64).require_grad();
        let targets = tensor(t.to_vec(), [2, 3], &device, DType::F64);
        let loss = binary_cross_entropy(logits.clone(), targets);
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let expected: f64 = x.iter().zip(t).map(|(x, t)| softplus(*x) - t * x).sum();
        assert!((values(&loss)[0] - expected / 6.0).abs() < 1e-12 * expected);
        let gradient = values(&logits.grad(&loss.backward()).unwrap());
        for ((x, t), found) in x.iter().zip(t).zip(gradient) {
            let expected = (1.0 / (1.0 + (-x).exp()) - t) / 6.0;
            assert!(
                (found - expected).abs() < 1e-15,
                "{x}: {found} instead of {expected}"
            );
        }
    }
}
