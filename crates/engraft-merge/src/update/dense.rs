//! A whole matrix in single precision.

use engraft_linalg::{Matrix, MatrixView};

use crate::error::{Error, Result};
use crate::file::HostTensor;

/// A row-major matrix in single precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Numbers, row by row.
    pub data: Vec<f32>,
}

impl Dense {
    /// A matrix of a shape.
    ///
    /// # Errors
    /// Unless there are as many numbers as the shape says.
    pub fn new(rows: usize, columns: usize, data: Vec<f32>) -> Result<Self> {
        match data.len() == rows * columns {
            true => Ok(Self {
                rows,
                columns,
                data,
            }),
            false => Err(Error::input(format!(
                "{} numbers for a matrix of {rows}x{columns}",
                data.len()
            ))),
        }
    }

    /// c D.
    #[must_use]
    pub fn scaled(&self, c: f64) -> Self {
        Self {
            data: self
                .data
                .iter()
                .map(|x| (f64::from(*x) * c) as f32)
                .collect(),
            ..*self
        }
    }

    /// The sum of two.
    ///
    /// # Errors
    /// Matrices of different shapes.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        let sum = self.data.iter().zip(&other.data).map(|(a, b)| a + b);
        match (self.rows, self.columns) == (other.rows, other.columns) {
            true => Self::new(self.rows, self.columns, sum.collect()),
            false => Err(Error::input(format!(
                "matrices of {}x{} and {}x{} do not add up",
                self.rows, self.columns, other.rows, other.columns
            ))),
        }
    }

    /// For decompositions.
    ///
    /// # Errors
    /// None: the numbers are as many as the shape says.
    pub fn view(&self) -> Result<MatrixView<'_, f32>> {
        Ok(MatrixView::new(self.rows, self.columns, &self.data)?)
    }

    /// In double precision.
    ///
    /// # Errors
    /// None, as for [`view`](Self::view).
    pub fn to_matrix(&self) -> Result<Matrix> {
        Ok(Matrix::from_f32(self.rows, self.columns, &self.data)?)
    }

    /// D^T.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let tensor = HostTensor::new(vec![self.rows, self.columns], self.data.clone());
        Self {
            rows: self.columns,
            columns: self.rows,
            data: crate::base::transposed(&tensor).data,
        }
    }

    /// The root of the sum of squares.
    #[must_use]
    pub fn norm(&self) -> f64 {
        norm(&self.data)
    }
}

/// The root of the sum of squares, added in double precision.
pub(crate) fn norm(data: &[f32]) -> f64 {
    let squares = data.iter().map(|x| f64::from(*x) * f64::from(*x));
    squares.sum::<f64>().sqrt()
}
