//! A whole matrix in single precision, and how parts are added to rows of one.

use std::ops::Range;

use engraft_kernels::{Mat, Onto, matmul};
use engraft_linalg::{Matrix, MatrixView};

use super::Factors;
use crate::error::{Error, Result};

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

/// `strip += ` rows `range` of L R.
pub(super) fn add_product(factors: &Factors, range: Range<usize>, strip: &mut [f32]) {
    let (rank, columns) = (factors.rank(), factors.right.cols());
    if rank == 0 || strip.is_empty() {
        return;
    }
    let to_f32 = |data: &[f64]| data.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let left = to_f32(&factors.left.as_slice()[range.start * rank..range.end * rank]);
    let right = to_f32(factors.right.as_slice());
    let (left, right) = (
        Mat::new(&left, range.len(), rank),
        Mat::new(&right, rank, columns),
    );
    matmul((strip, columns), Onto::Present, left, right, 1.0);
}

/// `strip += diag(rows) base + base diag(columns)`.
pub(super) fn add_scaled(
    rows: Option<&[f64]>,
    columns: Option<&[f64]>,
    base: &[f32],
    strip: &mut [f32],
) {
    let width = match (rows, columns) {
        (_, Some(columns)) => columns.len(),
        (Some(rows), None) => strip.len() / rows.len().max(1),
        (None, None) => return,
    };
    let lines = strip
        .chunks_mut(width.max(1))
        .zip(base.chunks(width.max(1)));
    for (at, (strip, base)) in lines.enumerate() {
        let row = rows.map_or(0.0, |rows| rows[at]);
        for (j, (x, w)) in strip.iter_mut().zip(base).enumerate() {
            let factor = row + columns.map_or(0.0, |columns| columns[j]);
            *x += (factor * f64::from(*w)) as f32;
        }
    }
}
