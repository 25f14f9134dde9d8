//! Tensors in files, read and written one at a time.

mod number;
mod reader;
mod spool;
mod writer;

pub use number::WEIGHTS;
pub(crate) use number::{narrow, size, widen};
pub use reader::{Info, TensorFiles};
pub use spool::TensorSpool;
pub use writer::{Planned, TensorWriter, write_atomically};

use engraft_linalg::Matrix;

use crate::error::Result;

/// A tensor in memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub data: Vec<f32>,
}

impl HostTensor {
    /// A tensor of a shape.
    ///
    /// # Panics
    /// Unless there are as many numbers as the shape says.
    #[must_use]
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data }
    }

    /// The first dimension against all others: a vector is one column.
    ///
    /// # Errors
    /// None for tensors with numbers; a scalar has no first dimension and becomes 1 x 1.
    pub fn matrix(&self) -> Result<Matrix> {
        let rows = self.shape.first().copied().unwrap_or(1);
        let columns = self.shape.iter().skip(1).product();
        Ok(Matrix::from_f32(rows, columns, &self.data)?)
    }

    /// A matrix in single precision.
    #[must_use]
    pub fn from_matrix(matrix: &Matrix) -> Self {
        Self::new(vec![matrix.rows(), matrix.cols()], matrix.to_f32())
    }
}
