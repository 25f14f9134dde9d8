//! What the tests of the operations share.

use burn::tensor::{DType, Device, Tensor};

use crate::{Init, Key, bridge};

/// A drawn input of a tested operation.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    flat: Tensor<1>,
    shape: Vec<usize>,
}

impl Drawn {
    /// These numbers in this shape.
    pub fn new(flat: Tensor<1>, shape: &[usize]) -> Self {
        Self {
            flat,
            shape: shape.to_vec(),
        }
    }

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
pub(crate) fn draw(name: &str, shape: &[usize; 2], device: &Device) -> Tensor<2> {
    Init::Normal { std: 1.0 }.tensor(*shape, &Key::new(1).child(name), device, DType::F32)
}

/// The backends of this build that run on a processor: flex has the kernels, ndarray is a second
/// opinion on the compositions.
fn devices() -> Vec<Device> {
    let built = ["flex", "ndarray"];
    built
        .iter()
        .filter_map(|name| crate::device(name).ok())
        .collect()
}

/// Panics unless the operation and its reference have equal values and equal gradients of every
/// input, in both precisions: `run(inputs, fast)` is the operation if `fast`. The reference runs on the
/// first backend of the build, the operation on each. The bound is `terms` roundings of sums of about
/// that many numbers of size 1.
#[track_caller]
pub(crate) fn agree<const D: usize>(
    shapes: &[&[usize]],
    terms: usize,
    run: impl Fn(&[Drawn], bool) -> Tensor<D>,
) {
    agree_beyond(0.0, shapes, terms, run);
}

/// The same where functions of the other backends have errors of `floor` in any precision.
#[track_caller]
pub(crate) fn agree_beyond<const D: usize>(
    floor: f64,
    shapes: &[&[usize]],
    terms: usize,
    run: impl Fn(&[Drawn], bool) -> Tensor<D>,
) {
    let devices = devices();
    for (dtype, precision) in [(DType::F32, 6e-8), (DType::F64, 1.2e-16)] {
        let tolerance = 8.0 * precision * (terms + 4) as f64;
        let slow = outcome(shapes, (&devices[0], dtype), |inputs| run(inputs, false));
        for (place, device) in devices.iter().enumerate() {
            let floor = if place == 0 { 0.0 } else { floor };
            let fast = outcome(shapes, (device, dtype), |inputs| run(inputs, true));
            for ((name, fast), (_, slow)) in fast.iter().zip(&slow) {
                let scale = slow
                    .iter()
                    .fold(1.0f64, |scale, value| scale.max(value.abs()));
                for (at, (fast, slow)) in fast.iter().zip(slow).enumerate() {
                    assert!(
                        (fast - slow).abs() <= tolerance.max(floor) * scale,
                        "{device:?}, {dtype:?}, {name}, element {at}: {fast:e} against {slow:e}"
                    );
                }
            }
        }
    }
}

/// The value of `run` and the gradients of all its inputs, by name.
fn outcome<const D: usize>(
    shapes: &[&[usize]],
    (device, dtype): (&Device, DType),
    run: impl Fn(&[Drawn]) -> Tensor<D>,
) -> Vec<(String, Vec<f64>)> {
    let device = device.clone().autodiff();
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
    let y = run(&inputs);
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
}
