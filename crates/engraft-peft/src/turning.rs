//! Stored tensors turned and reshaped, whatever their type.

use burn::tensor::TensorData;

/// The same values in another shape.
pub(crate) fn with_shape(data: &TensorData, shape: &[usize]) -> TensorData {
    TensorData::from_bytes_vec(data.as_bytes().to_vec(), shape.to_vec(), data.dtype())
}

/// A matrix with its rows as columns, whatever its type; axes after the second count as columns.
pub(crate) fn transposed(data: &TensorData) -> TensorData {
    let shape = data.shape().to_vec();
    let (rows, cols) = (shape[0], shape[1..].iter().product());
    TensorData::from_bytes_vec(turned(data, rows, cols), vec![cols, rows], data.dtype())
}

/// A stack of matrices, each with its rows as columns.
pub(crate) fn slices_transposed(data: &TensorData) -> TensorData {
    let mut shape = data.shape().to_vec();
    let last = shape.len() - 1;
    let (rows, cols) = (shape[last - 1], shape[last]);
    shape.swap(last - 1, last);
    TensorData::from_bytes_vec(turned(data, rows, cols), shape, data.dtype())
}

/// The bytes of a stack of matrices, column by column.
fn turned(data: &TensorData, rows: usize, cols: usize) -> Vec<u8> {
    let size = data.dtype().size();
    let mut turned = Vec::with_capacity(data.as_bytes().len());
    for matrix in data.as_bytes().chunks_exact((rows * cols * size).max(1)) {
        for col in 0..cols {
            for row in 0..rows {
                let at = (row * cols + col) * size;
                turned.extend_from_slice(&matrix[at..at + size]);
            }
        }
    }
    turned
}
