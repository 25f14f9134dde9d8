//! What the tests of the operations share.

use burn::tensor::{DType, Device, Tensor};

use crate::{Init, Key, bridge};

/// A drawn input of a tested operation.
#[derive(Debug, Clone)]
pub(super) struct Drawn {
    flat: Tensor<1>,
    shape: Vec<usize>,
}

impl Drawn {
    /// As a tensor of its shape.
    pub fn tensor<const D: usize>(&self) -> Tensor<D> {
        let shape: [usize; D] = self.shape.clone().try_into().expect("of this rank");
        self.flat.clone().reshape(shape)
    }

    /// As a matrix.
    pub fn matrix(&self) -> Tensor<2> {
        self.tensor()
    }

    /// As a vector.
    pub fn vector(&self) -> Tensor<1> {
        self.tensor()
    }
}

/// A normal matrix.
pub(super) fn draw(name: &str, shape: &[usize; 2], device: &Device) -> Tensor<2> {
    Init::Normal { std: 1.0 }.tensor(*shape, &Key::new(1).child(name), device, DType::F32)
}

/// Panics unless the operation and its reference have equal values and equal gradients of every
/// input, in both precisions: `run(inputs, fast)` is the operation if `fast`. The bound is `terms`
/// roundings of sums of about that many numbers of size 1.
#[track_caller]
pub(super) fn agree<const D: usize>(
    shapes: &[&[usize]],
    terms: usize,
    run: impl Fn(&[Drawn], bool) -> Tensor<D>,
) {
    for (dtype, precision) in [(DType::F32, 6e-8), (DType::F64, 1.2e-16)] {
        let device = Device::default().autodiff();
        let flat = |name: String, len: usize| {
            Init::Normal { std: 1.0 }.tensor::<1>([len], &Key::new(1).child(&name), &device, dtype)
        };
        let inputs: Vec<Drawn> = shapes
            .iter()
            .enumerate()
            .map(|(at, shape)| Drawn {
                flat: flat(format!("x{at}"), shape.iter().product()).require_grad(),
                shape: shape.to_vec(),
            })
            .collect();
        let outcome = |fast: bool| {
            let y = run(&inputs, fast);
            let dims = y.dims();
            let weights = flat("gy".to_owned(), dims.iter().product()).reshape(dims);
            let grads = (y.clone() * weights).sum().backward();
            let gradients = inputs.iter().enumerate().map(|(at, input)| {
                let gradient = input.flat.grad(&grads);
                (
                    format!("gradient of input {at}"),
                    bridge::values(&gradient.expect("used")),
                )
            });
            let mut found = vec![("value".to_owned(), bridge::values(&y))];
            found.extend(gradients);
            found
        };
        let tolerance = 8.0 * precision * (terms + 4) as f64;
        for ((name, fast), (_, slow)) in outcome(true).iter().zip(&outcome(false)) {
            let scale = slow
                .iter()
                .fold(1.0f64, |scale, value| scale.max(value.abs()));
            for (at, (fast, slow)) in fast.iter().zip(slow).enumerate() {
                assert!(
                    (fast - slow).abs() <= tolerance * scale,
                    "{dtype:?}, {name}, element {at}: {fast:e} against {slow:e}"
                );
            }
        }
    }
}
