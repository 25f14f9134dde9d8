//! Flex tensors as slices.
#![cfg(feature = "flex")]

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor};

/// The same tensor with its elements in row-major order.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// Whether the tensor's numbers are singles or doubles in memory, without autodiff.
pub(super) fn is_host(tensor: &Tensor<1>) -> bool {
    matches!(tensor.dtype(), DType::F32 | DType::F64)
        && tensor.clone().try_into_primitive::<Flex>().is_ok()
}

/// The memory behind a tensor for which [`is_host`] holds, in order and without more than its
/// numbers; it is the tensor's own where nothing else looks at it.
pub(super) fn own(tensor: Tensor<1>) -> FlexTensor {
    let shared = tensor
        .try_into_primitive::<Flex>()
        .expect("the caller has seen that it is on flex");
    shared.to_contiguous()
}

/// The tensor of this memory.
pub(super) fn release(memory: FlexTensor) -> Tensor<1> {
    Tensor::from_primitive::<Flex>(memory)
}
