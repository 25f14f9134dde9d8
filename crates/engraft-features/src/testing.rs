//! Draws and distances for the unit tests.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::FrozenBase;
use engraft_tensor::{Init, Key, bridge};

/// Standard normal values in f64.
pub(crate) fn draw<const D: usize>(shape: [usize; D], seed: u64, role: &str) -> Tensor<D> {
    draw_as(shape, seed, role, DType::F64)
}

/// Standard normal values.
pub(crate) fn draw_as<const D: usize>(
    shape: [usize; D],
    seed: u64,
    role: &str,
    dtype: DType,
) -> Tensor<D> {
    let key = Key::new(seed).child(role);
    Init::Normal { std: 1.0 }.tensor(shape, &key, &Device::default(), dtype)
}

/// The largest absolute entry.
pub(crate) fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    bridge::values(&x)
        .iter()
        .fold(0.0, |largest, value| value.abs().max(largest))
}

/// A layer in f64, for the device and precision of what belongs to no layer.
pub(crate) fn any_layer() -> FrozenBase {
    FrozenBase::new(draw([2, 2], 0, "w"), None)
}
