//! Integer tensors of adapters.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Indices that belong to an adapter's file and are never trained.
pub(crate) fn frozen<const D: usize>(
    values: Vec<i64>,
    shape: [usize; D],
    device: &Device,
) -> Param<Tensor<D, Int>> {
    Param::initialized(ParamId::new(), tensor(values, shape, device))
}

/// Indices on a device.
pub(crate) fn tensor<const D: usize>(
    values: Vec<i64>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
