//! Draws and distances for the unit tests.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapter, Ctx, FrozenBase};
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
    Init::Normal { std: 1.0 }.tensor(
        shape,
        &Key::new(seed).child(role),
        &Device::default(),
        dtype,
    )
}

/// I, [size, size].
pub(crate) fn eye(size: usize, dtype: DType) -> Tensor<2> {
    let values = (0..size * size)
        .map(|at| f64::from(u8::from(at / size == at % size)))
        .collect();
    bridge::tensor(values, [size, size], &Device::default(), dtype)
}

/// The largest absolute entry.
pub(crate) fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    bridge::values(&x)
        .iter()
        .fold(0.0, |largest, value| value.abs().max(largest))
}

/// The Frobenius norm.
pub(crate) fn norm(x: Tensor<2>) -> f64 {
    bridge::values(&x).iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// How far the two forms of an adapter in f64 are apart on `base`.
pub(crate) fn forms_apart(adapter: &impl Adapter, base: &FrozenBase) -> f64 {
    let x = draw([5, base.d_in()], 9, "x");
    let ctx = Ctx::default();
    let merged = adapter.effective(base, &ctx).unwrap();
    largest(adapter.forward(x.clone(), base, &ctx) - merged.forward(x))
}
