//! Linear maps known by their products.

use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;
use crate::view::{MatrixView, Real};

/// A matrix A (m x n) as the decompositions of a few singular triples see it: two products with
/// thin matrices, whose entries are in f64 whatever the precision of A.
pub trait Operator: Sync {
    /// (m, n).
    fn shape(&self) -> (usize, usize);

    /// A X for X (n x k), with as many rows as A has columns.
    fn times(&self, x: &Matrix) -> Matrix;

    /// A^T X for X (m x k), with as many rows as A.
    fn transpose_times(&self, x: &Matrix) -> Matrix;

    /// Relative rounding error of the products.
    fn epsilon(&self) -> f64;

    /// The matrix itself in f64, for decompositions that need all of it.
    fn to_matrix(&self) -> Matrix;
}

impl<T: Real> Operator for MatrixView<'_, T> {
    fn shape(&self) -> (usize, usize) {
        self.shape()
    }

    fn times(&self, x: &Matrix) -> Matrix {
        self.times(x)
    }

    fn transpose_times(&self, x: &Matrix) -> Matrix {
        self.transpose_times(x)
    }

    fn epsilon(&self) -> f64 {
        T::EPSILON
    }

    fn to_matrix(&self) -> Matrix {
        self.to_matrix()
    }
}

impl Operator for Matrix {
    fn shape(&self) -> (usize, usize) {
        self.shape()
    }

    fn times(&self, x: &Matrix) -> Matrix {
        self.as_view().times(x)
    }

    fn transpose_times(&self, x: &Matrix) -> Matrix {
        self.as_view().transpose_times(x)
    }

    fn epsilon(&self) -> f64 {
        f64::EPSILON
    }

    fn to_matrix(&self) -> Matrix {
        self.clone()
    }
}

/// Error unless the product of A with a dense random matrix is finite: one NaN or infinite entry
/// of A makes a row of it so, which saves a pass over A.
pub(crate) fn check_product(
    operation: &'static str,
    a: &(impl Operator + ?Sized),
    product: &Matrix,
) -> Result<()> {
    match product.check_finite(operation) {
        Err(LinalgError::NonFinite { .. }) => {
            a.to_matrix().check_finite(operation)?;
            product.check_finite(operation)
        }
        other => other,
    }
}
