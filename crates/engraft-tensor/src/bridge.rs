//! Tensors to host values and matrices, and back, in the tensor's own precision.

use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_linalg::Matrix;

/// A tensor of `shape` and `dtype` from row-major host values.
///
/// # Panics
/// If the number of values is not the product of the shape.
pub fn tensor<const D: usize>(
    values: Vec<f64>,
    shape: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values, shape).convert_dtype(dtype),
        (device, dtype),
    )
}

/// The row-major values of a tensor, widened to f64.
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    tensor
        .to_data()
        .convert::<f64>()
        .try_to_vec()
        .expect("converted to f64")
}

/// A matrix from a rank-2 tensor.
pub fn to_matrix(tensor: &Tensor<2>) -> Matrix {
    let [rows, cols] = tensor.dims();
    Matrix::from_vec(rows, cols, values(tensor))
        .expect("a tensor holds as many values as its shape says")
}

/// A rank-2 tensor with a matrix's values, on the device and in the precision of `like`.
pub fn from_matrix(matrix: &Matrix, device: &Device, dtype: DType) -> Tensor<2> {
    tensor(
        matrix.as_slice().to_vec(),
        [matrix.rows(), matrix.cols()],
        device,
        dtype,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip_in_both_precisions() {
        let device = Device::default();
        let matrix = Matrix::from_fn(3, 2, |i, j| i as f64 - 0.25 * j as f64);
        for dtype in [DType::F32, DType::F64] {
            let there = from_matrix(&matrix, &device, dtype);
            assert_eq!(there.dtype(), dtype);
            assert_eq!(to_matrix(&there).as_slice(), matrix.as_slice());
        }
    }
}
