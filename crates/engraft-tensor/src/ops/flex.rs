//! Flex tensors as slices.
#![cfg(feature = "flex")]

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, TensorData};

/// The same tensor with its elements in row-major order.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// Applies a kernel to tensors of one precision, into a tensor of another shape. The tensors come
/// back where there is no kernel for the precision.
pub(super) fn shaped<const N: usize>(
    inputs: [FlexTensor; N],
    shape: impl Into<Shape>,
    f32: impl FnOnce([&[f32]; N], &mut [f32]),
    f64: impl FnOnce([&[f64]; N], &mut [f64]),
) -> Result<FlexTensor, [FlexTensor; N]> {
    let inputs = inputs.map(contiguous);
    let shape = shape.into();
    let data = match inputs[0].dtype() {
        DType::F32 => {
            let mut output = vec![0.0f32; shape.num_elements()];
            f32(
                inputs
                    .each_ref()
                    .map(|input| input.as_slice().expect("made contiguous")),
                &mut output,
            );
            TensorData::new(output, shape)
        }
        DType::F64 => {
            let mut output = vec![0.0f64; shape.num_elements()];
            f64(
                inputs
                    .each_ref()
                    .map(|input| input.as_slice().expect("made contiguous")),
                &mut output,
            );
            TensorData::new(output, shape)
        }
        _ => return Err(inputs),
    };
    Ok(FlexTensor::from_data(data))
}
