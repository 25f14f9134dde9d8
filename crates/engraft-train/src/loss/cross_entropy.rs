//! Cross entropy.

use burn::tensor::{DType, Int, Tensor, activation};
use engraft_data::text::IGNORED;
use engraft_tensor::bridge::tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

/// Cross entropy as PyTorch's `cross_entropy` defines it, with ignored labels:
///
/// (1 - e) sum_i w\[y_i\] n_i\[y_i\] / W + e / C sum_i sum_c w_c n_i\[c\] / W, where n = -log softmax(logits),
/// W = sum_i w\[y_i\], over the rows i whose label is not ignored, and w = 1 without weights.
///
/// Of ignored labels alone it is 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CrossEntropy {
    /// The weight of each class; all are 1 if there is none.
    pub weights: Vec<f64>,
    /// e: the share of the target that is spread over all classes.
    pub smoothing: f64,
}

impl CrossEntropy {
    /// Checks the settings for a number of classes.
    ///
    /// # Errors
    /// Another number of weights, weights that are negative or not finite, or a smoothing outside of
    /// 0 to 1.
    pub fn check(&self, classes: usize) -> Result<()> {
        let bad = |what, reason| Err(Error::BadConfig { what, reason });
        if !self.weights.is_empty() && self.weights.len() != classes {
            return bad(
                "weights",
                format!("found {}, expected {classes}", self.weights.len()),
            );
        }
        if let Some(weight) = self
            .weights
            .iter()
            .find(|weight| !weight.is_finite() || **weight < 0.0)
        {
            return bad(
                "weights",
                format!("found {weight}, expected finite numbers of at least 0"),
            );
        }
        match (0.0..=1.0).contains(&self.smoothing) {
            true => Ok(()),
            false => bad(
                "smoothing",
                format!("found {}, expected 0 to 1", self.smoothing),
            ),
        }
    }

    /// The loss of logits \[rows, classes\] with labels `[rows]`, as `[1]`.
    ///
    /// # Panics
    /// If the numbers of rows and labels differ, or of classes and weights.
    pub fn loss(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        let [rows, classes] = logits.dims();
        assert_eq!(labels.dims(), [rows], "as many labels as rows of logits");
        let (device, dtype) = (logits.device().without_autodiff(), logits.dtype());
        let ignored = labels.clone().equal_elem(IGNORED);
        let labels = labels.mask_fill(ignored.clone(), 0);
        let counted = Tensor::<1>::ones([rows], (&device, dtype)).mask_fill(ignored, 0);
        let negative = activation::log_softmax(logits, 1).neg();
        let all = negative
            .clone()
            .gather(1, labels.clone().reshape([rows, 1]))
            .reshape([rows]);
        let (weight, spread) = match self.weights.is_empty() {
            true => (counted.clone(), negative),
            false => {
                let weights = tensor(self.weights.clone(), [classes], &device, dtype);
                let weight = weights.clone().select(0, labels) * counted.clone();
                (weight, negative * weights.reshape([1, classes]))
            }
        };
        // Where nothing counts, 0 / tiny is 0.
        let total = weight.clone().sum().clamp_min(smallest(dtype));
        let loss = (all * weight).sum() / total.clone();
        match self.smoothing {
            0.0 => loss,
            e => {
                let spread = (spread.sum_dim(1).reshape([rows]) * counted).sum() / total;
                loss * (1.0 - e) + spread * (e / classes as f64)
            }
        }
    }
}

/// A positive number that every float type holds and by which 0 can be divided.
fn smallest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1e-4,
        _ => 1e-30,
    }
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

    fn logits(device: &Device) -> Tensor<2> {
        let values = vec![
            0.5, -1.0, 2.0, 1.5, 0.25, -0.75, 0.0, 3.0, 1.0, -2.0, 0.5, 0.5,
        ];
        tensor(values, [4, 3], &device.clone().autodiff(), DType::F64).require_grad()
    }

    /// PyTorch 2.15: `cross_entropy(logits, [2, -100, 0, 1], weight, label_smoothing)` in float64.
    #[test]
    fn pytorch_has_the_same_values_and_gradients() {
        let device = Device::default();
        let weights = vec![0.5, 2.0, 1.25];
        for (weights, smoothing, value, first, last) in [
            (
                vec![],
                0.0,
                1.3815090370135514,
                0.05843013071334556,
                0.1600959295867563,
            ),
            (
                vec![],
                0.1,
                1.4148423703468849,
                0.04731901960223445,
                0.14898481847564524,
            ),
            (
                weights.clone(),
                0.0,
                0.8942137920677364,
                0.05843013071334556,
                0.2561534873388101,
            ),
            (
                weights,
                0.1,
                0.9496099832289846,
                0.05398568626890113,
                0.2354366204524936,
            ),
        ] {
            let settings = CrossEntropy { weights, smoothing };
            settings.check(3).unwrap();
            let logits = logits(&device);
            let labels = Tensor::from_ints([2, -100, 0, 1], &device);
            let loss = settings.loss(logits.clone(), labels);
            let gradient = values(&logits.grad(&loss.backward()).unwrap());
            let near = |found: f64, expected: f64| (found - expected).abs() < 1e-14;
            assert!(near(values(&loss)[0], value), "{settings:?}");
            assert!(
                near(gradient[0], first) && near(gradient[11], last),
                "{gradient:?}"
            );
            assert_eq!(gradient[3..6], [0.0; 3]);
        }
    }

    #[test]
    fn of_ignored_labels_alone_the_loss_is_0() {
        let device = Device::default();
        let logits = logits(&device);
        let labels = Tensor::from_ints([IGNORED; 4], &device);
        let loss = CrossEntropy {
            smoothing: 0.1,
            ..CrossEntropy::default()
        }
        .loss(logits.clone(), labels);
        assert_eq!(values(&loss), [0.0]);
        assert_eq!(values(&logits.grad(&loss.backward()).unwrap()), [0.0; 12]);
    }

    #[test]
    fn settings_are_checked() {
        let check = |weights, smoothing| CrossEntropy { weights, smoothing }.check(2).is_ok();
        assert!(check(vec![], 0.0) && check(vec![1.0, 0.0], 1.0));
        assert!(!check(vec![1.0], 0.0) && !check(vec![1.0, -1.0], 0.0) && !check(vec![], 1.5));
    }
}
