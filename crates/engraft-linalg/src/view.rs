//! Borrowed matrices in either precision, and the products that run over large ones.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::error::Result;
use crate::matrix::{Matrix, check_length};

/// Rows or columns that one task of a product takes: the cut is by shape alone, so that no sum
/// depends on the number of threads.
const STRIP: usize = 512;

/// Products with fewer multiplications run on the calling thread.
const PARALLEL_PRODUCTS: usize = 1 << 20;

mod sealed {
    pub trait Sealed: faer::traits::RealField + Copy + Send + Sync {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// Precision of the entries of a [`MatrixView`]: `f32` or `f64`.
pub trait Real: sealed::Sealed + Into<f64> {
    /// Relative rounding error of one operation.
    const EPSILON: f64;

    /// The nearest number of this precision.
    fn round(value: f64) -> Self;
}

impl Real for f32 {
    const EPSILON: f64 = f32::EPSILON as f64;

    fn round(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    const EPSILON: f64 = Self::EPSILON;

    fn round(value: f64) -> Self {
        value
    }
}

/// Borrowed row-major matrix in its own precision: a weight is decomposed where it lies, without
/// a copy and without twice the bytes.
#[derive(Debug, Clone, Copy)]
pub struct MatrixView<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
}

impl<'a, T: Real> MatrixView<'a, T> {
    /// View of a row-major buffer of exactly `rows * cols` entries.
    pub fn new(rows: usize, cols: usize, data: &'a [T]) -> Result<Self> {
        check_length("matrix", data.len(), rows, cols)?;
        Ok(Self { data, rows, cols })
    }

    /// (rows, columns).
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Entries, row-major.
    pub fn as_slice(&self) -> &'a [T] {
        self.data
    }

    /// The matrix in f64; exact.
    pub fn to_matrix(&self) -> Matrix {
        Matrix::from_view(self.view())
    }

    fn view(&self) -> MatRef<'a, T> {
        MatRef::from_row_major_slice(self.data, self.rows, self.cols)
    }

    /// A X for a thin X (n x k): 2 m n k flops in the precision of A, one pass over A.
    pub(crate) fn times(&self, x: &Matrix) -> Matrix {
        let (a, k) = (self.view(), x.cols());
        let x: Vec<T> = x.as_slice().iter().map(|&x| T::round(x)).collect();
        let x = MatRef::from_row_major_slice(&x, self.cols, k);
        let mut out = Matrix::zeros(self.rows, k);
        strips(
            out.entries_mut(),
            STRIP * k,
            self.data.len() * k,
            |at, out| {
                let rows = out.len() / k;
                let mut strip = vec![T::round(0.0); out.len()];
                let target = MatMut::from_row_major_slice_mut(&mut strip, rows, k);
                multiply(target, a.subrows(at * STRIP, rows), x);
                out.iter_mut()
                    .zip(&strip)
                    .for_each(|(out, &y)| *out = y.into());
            },
        );
        out
    }

    /// A^T X for a thin X (m x k): 2 m n k flops in the precision of A, one pass over A.
    pub(crate) fn transpose_times(&self, x: &Matrix) -> Matrix {
        let (a, k) = (self.view(), x.cols());
        // Column-major, as is the product: rows of A are then read as they lie.
        let x: Vec<T> = x
            .transpose()
            .as_slice()
            .iter()
            .map(|&x| T::round(x))
            .collect();
        let x = MatRef::from_column_major_slice(&x, self.rows, k);
        let mut out = Matrix::zeros(self.cols, k);
        strips(
            out.entries_mut(),
            STRIP * k,
            self.data.len() * k,
            |at, out| {
                let cols = out.len() / k;
                let mut strip = vec![T::round(0.0); out.len()];
                let target = MatMut::from_column_major_slice_mut(&mut strip, cols, k);
                multiply(target, a.subcols(at * STRIP, cols).transpose(), x);
                for (i, out) in out.chunks_exact_mut(k).enumerate() {
                    let entries = strip[i..].iter().step_by(cols);
                    out.iter_mut()
                        .zip(entries)
                        .for_each(|(out, &y)| *out = y.into());
                }
            },
        );
        out
    }

    /// A + `factor` B C, for B (m x r) and C (r x n), row-major in the precision of A: one pass
    /// over A and one over the result, 2 m n r flops.
    ///
    /// Errors: shapes that do not fit.
    pub fn plus_product(&self, factor: f64, b: &Self, c: &Self) -> Result<Vec<T>> {
        let (m, n) = self.shape();
        check_length("left factor", b.data.len(), m, c.rows)?;
        check_length("right factor", c.data.len(), b.cols, n)?;
        let rank = b.cols;
        let mut out = vec![T::round(0.0); m * n];
        let (left, right) = (b.view(), c.view());
        // Strips small enough to stay in a core's cache between the copy and the product.
        let rows_at_once = (STRIP * STRIP / n.max(1)).max(1);
        strips(&mut out, rows_at_once * n, m * n * (rank + 1), |at, out| {
            let rows = out.len() / n.max(1);
            let from = at * rows_at_once;
            out.copy_from_slice(&self.data[from * n..(from + rows) * n]);
            matmul(
                MatMut::from_row_major_slice_mut(out, rows, n),
                Accum::Add,
                left.subrows(from, rows),
                right,
                T::round(factor),
                Par::Seq,
            );
        });
        Ok(out)
    }
}

/// Runs `task` on chunks of `out`, at once if the work is worth it.
fn strips<T: Send>(
    out: &mut [T],
    length: usize,
    work: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    if work < PARALLEL_PRODUCTS {
        let chunks = out.chunks_mut(length.max(1)).enumerate();
        chunks.for_each(|(at, chunk)| task(at, chunk));
    } else {
        let chunks = out.par_chunks_mut(length.max(1)).enumerate();
        chunks.for_each(|(at, chunk)| task(at, chunk));
    }
}

fn multiply<T: Real>(out: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>) {
    matmul(out, Accum::Replace, left, right, T::round(1.0), Par::Seq);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::seeded;

    /// Rounding errors of sums of `k` products of terms of these norms.
    fn bound<T: Real>(k: usize, norms: f64) -> f64 {
        4.0 * T::EPSILON * (k as f64).sqrt().max(4.0) * norms
    }

    fn check<T: Real>(m: usize, n: usize, k: usize, seed: u64) {
        let narrow = |matrix: &Matrix| -> Vec<T> {
            matrix.as_slice().iter().map(|&x| T::round(x)).collect()
        };
        let stored = narrow(&seeded(m, n, seed));
        let a = MatrixView::new(m, n, &stored).unwrap();
        let dense = a.to_matrix();
        let x = seeded(n, k, seed ^ 1);
        let expected = dense.matmul(&x).unwrap();
        let norms = dense.frobenius_norm() * x.frobenius_norm();
        let error = a.times(&x).max_abs_diff(&expected).unwrap();
        assert!(error <= bound::<T>(n, norms), "{error:e}");

        let y = seeded(m, k, seed ^ 2);
        let expected = dense.transpose_matmul(&y).unwrap();
        let norms = dense.frobenius_norm() * y.frobenius_norm();
        let error = a.transpose_times(&y).max_abs_diff(&expected).unwrap();
        assert!(error <= bound::<T>(m, norms), "{error:e}");

        let (b, c) = (narrow(&y), narrow(&x.transpose()));
        let (b, c) = (
            MatrixView::new(m, k, &b).unwrap(),
            MatrixView::new(k, n, &c).unwrap(),
        );
        let found = a.plus_product(-0.5, &b, &c).unwrap();
        let found = MatrixView::new(m, n, &found).unwrap().to_matrix();
        let product = b.to_matrix().matmul(&c.to_matrix()).unwrap();
        let expected = dense.add(&product.scale(-0.5)).unwrap();
        let norms = dense.max_abs() + y.frobenius_norm() * x.frobenius_norm();
        assert!(found.max_abs_diff(&expected).unwrap() <= bound::<T>(k, norms));
    }

    proptest! {
        #[test]
        fn products_agree_with_those_in_f64(m in 1usize..30, n in 1usize..30, k in 1usize..6, seed: u64) {
            check::<f32>(m, n, k, seed);
            check::<f64>(m, n, k, seed);
        }
    }

    #[test]
    fn products_beyond_the_strips() {
        for (m, n, k) in [(1100, 530, 3), (513, 1025, 9), (1, 3000, 2), (3000, 1, 2)] {
            check::<f32>(m, n, k, 7);
            check::<f64>(m, n, k, 7);
        }
    }

    #[test]
    fn shapes_must_fit() {
        let data = [0.0f32; 6];
        assert!(MatrixView::new(2, 2, &data).is_err());
        let a = MatrixView::new(2, 3, &data).unwrap();
        let column = MatrixView::new(2, 1, &data[..2]).unwrap();
        assert!(a.plus_product(1.0, &column, &column).is_err());
        let row = MatrixView::new(1, 3, &data[..3]).unwrap();
        assert!(a.plus_product(1.0, &column, &row).is_ok());
        assert!(a.plus_product(1.0, &row, &row).is_err());
    }
}
