//! The owned dense matrix everything here works on.

use std::ops::Range;

use faer::{Mat, MatMut, MatRef};

use crate::error::{LinalgError, Result, Shape};
use crate::view::{MatrixView, Real};

/// Dense matrix in f64, row-major: entry (i, j) lies at `i * cols + j`.
///
/// Arithmetic follows IEEE 754 and lets NaN through; decompositions refuse it.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    data: Vec<f64>,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Matrix with entry (i, j) = `entry(i, j)`.
    pub fn from_fn(rows: usize, cols: usize, mut entry: impl FnMut(usize, usize) -> f64) -> Self {
        let mut data = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            data.extend((0..cols).map(|j| entry(i, j)));
        }
        Self { data, rows, cols }
    }

    /// Matrix over a row-major buffer of exactly `rows * cols` entries.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<f64>) -> Result<Self> {
        check_length("matrix", data.len(), rows, cols)?;
        Ok(Self { data, rows, cols })
    }

    /// Matrix from its rows, all of the same length.
    pub fn from_rows(rows: &[impl AsRef<[f64]>]) -> Result<Self> {
        let cols = rows.first().map_or(0, |row| row.as_ref().len());
        let mut data = Vec::with_capacity(rows.len() * cols);
        for row in rows {
            check_length("row of a matrix", row.as_ref().len(), 1, cols)?;
            data.extend_from_slice(row.as_ref());
        }
        Self::from_vec(rows.len(), cols, data)
    }

    /// Matrix from a row-major f32 slice of exactly `rows * cols` entries; the widening is exact.
    pub fn from_f32(rows: usize, cols: usize, data: &[f32]) -> Result<Self> {
        Self::from_vec(rows, cols, data.iter().map(|&x| f64::from(x)).collect())
    }

    /// Matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            data: vec![0.0; rows * cols],
            rows,
            cols,
        }
    }

    /// Identity of order `n`.
    pub fn identity(n: usize) -> Self {
        Self::from_diagonal(&vec![1.0; n])
    }

    /// Square matrix with the given diagonal, zero elsewhere.
    pub fn from_diagonal(diagonal: &[f64]) -> Self {
        let mut matrix = Self::zeros(diagonal.len(), diagonal.len());
        for (i, &d) in diagonal.iter().enumerate() {
            matrix.set(i, i, d);
        }
        matrix
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// (rows, columns).
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Entries, row-major.
    pub fn as_slice(&self) -> &[f64] {
        &self.data
    }

    /// Entries, row-major, without a copy.
    pub fn into_vec(self) -> Vec<f64> {
        self.data
    }

    /// Entries, row-major, rounded to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&x| x as f32).collect()
    }

    /// Entry (i, j). Panics outside the matrix, as a slice does.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.row(i)[j]
    }

    /// Sets entry (i, j). Panics outside the matrix, as a slice does.
    pub fn set(&mut self, i: usize, j: usize, value: f64) {
        self.row_mut(i)[j] = value;
    }

    /// Row `i`. Panics outside the matrix, as a slice does.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Row `i`, mutable. Panics outside the matrix, as a slice does.
    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// The columns in `range`, as a matrix of their own.
    pub fn columns(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.cols {
            return Err(LinalgError::Index {
                operation: "columns",
                found: format!("{range:?}"),
                expected: format!("a range within 0..{}", self.cols),
            });
        }
        Ok(Self::from_fn(self.rows, range.len(), |i, j| {
            self.get(i, range.start + j)
        }))
    }

    /// The first `count` rows; `count` is at most the number of rows.
    pub(crate) fn first_rows(&self, count: usize) -> Self {
        let data = self.data[..count * self.cols].to_vec();
        Self {
            data,
            rows: count,
            cols: self.cols,
        }
    }

    /// Transpose.
    pub fn transpose(&self) -> Self {
        Self::from_fn(self.cols, self.rows, |i, j| self.get(j, i))
    }

    /// Error if an entry is NaN or infinite, or if there is none; `operation` names the caller.
    pub fn check_finite(&self, operation: &'static str) -> Result<()> {
        let (rows, cols) = self.shape();
        if self.data.is_empty() {
            return Err(LinalgError::Empty {
                operation,
                rows,
                cols,
            });
        }
        match self.data.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => Err(LinalgError::NonFinite {
                operation,
                row: at / cols,
                col: at % cols,
                value: self.data[at],
            }),
        }
    }

    /// Error unless square; returns the order.
    pub(crate) fn check_square(&self, operation: &'static str) -> Result<usize> {
        let (rows, cols) = self.shape();
        if rows == cols {
            Ok(rows)
        } else {
            Err(LinalgError::NotSquare {
                operation,
                rows,
                cols,
            })
        }
    }

    /// Error unless `fits`.
    pub(crate) fn check_pair(
        &self,
        operation: &'static str,
        other: &Self,
        fits: bool,
        expected: &'static str,
    ) -> Result<()> {
        let (left, right): (Shape, Shape) = (self.shape(), other.shape());
        if fits {
            Ok(())
        } else {
            Err(LinalgError::Shape {
                operation,
                left,
                right,
                expected,
            })
        }
    }

    /// The matrix, borrowed.
    pub fn as_view(&self) -> MatrixView<'_, f64> {
        MatrixView::new(self.rows, self.cols, &self.data).expect("a matrix holds what it says")
    }

    pub(crate) fn entries_mut(&mut self) -> &mut [f64] {
        &mut self.data
    }

    pub(crate) fn view(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.data, self.rows, self.cols)
    }

    pub(crate) fn view_mut(&mut self) -> MatMut<'_, f64> {
        MatMut::from_row_major_slice_mut(&mut self.data, self.rows, self.cols)
    }

    /// Column-major copy of A / c and the power of two c that brings the largest entry near 1, so
    /// that no square overflows or vanishes on the way; the division is exact.
    pub(crate) fn normalized(&self) -> (Mat<f64>, f64) {
        let exponent = self.max_abs().max(f64::MIN_POSITIVE).log2().floor() as i32;
        let (scale, inverse) = (2f64.powi(exponent), 2f64.powi(-exponent));
        (
            Mat::from_fn(self.rows(), self.cols(), |i, j| self.get(i, j) * inverse),
            scale,
        )
    }

    pub(crate) fn from_view<T: Real>(view: MatRef<'_, T>) -> Self {
        Self::from_fn(view.nrows(), view.ncols(), |i, j| view[(i, j)].into())
    }
}

pub(crate) fn check_length(
    what: &'static str,
    found: usize,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let expected = rows.saturating_mul(cols);
    if found == expected {
        Ok(())
    } else {
        Err(LinalgError::Length {
            what,
            found,
            expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constructors_check_lengths() {
        let error = Matrix::from_vec(2, 3, vec![0.0; 5]).unwrap_err();
        assert_eq!(error.to_string(), "matrix: found 5 entries, expected 6");
        assert!(Matrix::from_rows(&[vec![1.0, 2.0], vec![3.0]]).is_err());
        let a = Matrix::from_rows(&[[1.0, 2.0], [3.0, 4.0]]).unwrap();
        assert_eq!(a, Matrix::from_f32(2, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap());
        assert_eq!(a.to_f32(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(a.transpose().as_slice(), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(a.columns(1..2).unwrap().as_slice(), [2.0, 4.0]);
        assert!(a.columns(1..3).is_err());
    }

    #[test]
    fn non_finite_and_empty_are_refused() {
        let mut a = Matrix::zeros(2, 2);
        a.set(0, 1, f64::NAN);
        let error = a.check_finite("test").unwrap_err();
        assert_eq!(
            error.to_string(),
            "test: entry (0, 1) is NaN, expected finite numbers"
        );
        assert!(matches!(
            Matrix::zeros(0, 2).check_finite("test"),
            Err(LinalgError::Empty { .. })
        ));
    }
}
