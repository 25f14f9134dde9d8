//! Draws and distances for the unit tests.

use burn::tensor::{DType, Device, Tensor};
use engraft_tensor::{Init, Key, bridge};

/// Standard normal values in f64.
pub(crate) fn draw<const D: usize>(shape: [usize; D], seed: u64, role: &str) -> Tensor<D> {
    Init::Normal { std: 1.0 }.tensor(
        shape,
        &Key::new(seed).child(role),
        &Device::default(),
        DType::F64,
    )
}

/// The largest absolute entry.
pub(crate) fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    bridge::values(&x)
        .iter()
        .fold(0.0, |largest, value| value.abs().max(largest))
}
