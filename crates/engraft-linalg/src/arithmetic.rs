//! Sums, products and norms of matrices.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatRef};

use crate::error::Result;
use crate::matrix::{Matrix, check_length};
use crate::parallel::parallelism;

impl Matrix {
    /// Product A B; A is m x k, B is k x n.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        self.check_pair(
            "matmul",
            other,
            self.cols() == other.rows(),
            "columns = rows",
        )?;
        Ok(product(self.view(), other.view()))
    }

    /// Product A^T B without forming the transpose; A is k x m, B is k x n.
    pub fn transpose_matmul(&self, other: &Self) -> Result<Self> {
        self.check_pair(
            "transpose_matmul",
            other,
            self.rows() == other.rows(),
            "rows = rows",
        )?;
        Ok(product(self.view().transpose(), other.view()))
    }

    /// Sum A + B.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.zip_with("add", other, |a, b| a + b)
    }

    /// Difference A - B.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        self.zip_with("sub", other, |a, b| a - b)
    }

    /// Multiple `factor` A.
    pub fn scale(&self, factor: f64) -> Self {
        Self::from_fn(self.rows(), self.cols(), |i, j| factor * self.get(i, j))
    }

    /// A diag(`factors`), one factor for each column.
    pub fn scale_columns(&self, factors: &[f64]) -> Result<Self> {
        check_length("column factors", factors.len(), 1, self.cols())?;
        Ok(Self::from_fn(self.rows(), self.cols(), |i, j| {
            self.get(i, j) * factors[j]
        }))
    }

    /// diag(`factors`) A, one factor for each row.
    pub fn scale_rows(&self, factors: &[f64]) -> Result<Self> {
        check_length("row factors", factors.len(), self.rows(), 1)?;
        Ok(Self::from_fn(self.rows(), self.cols(), |i, j| {
            factors[i] * self.get(i, j)
        }))
    }

    /// Kronecker product A (x) B: block (i, j) is a_ij B.
    pub fn kron(&self, other: &Self) -> Self {
        let (p, q) = other.shape();
        Self::from_fn(self.rows() * p, self.cols() * q, |i, j| {
            self.get(i / p, j / q) * other.get(i % p, j % q)
        })
    }

    /// Frobenius norm, the root of the sum of squares, safe against overflow of the squares.
    pub fn frobenius_norm(&self) -> f64 {
        self.view().norm_l2()
    }

    /// Largest absolute entry, NaN if there is one, 0 for an empty matrix.
    pub fn max_abs(&self) -> f64 {
        // `f64::max` drops NaN, which would let a broken result look like a perfect one.
        if self.as_slice().iter().any(|x| x.is_nan()) {
            return f64::NAN;
        }
        self.as_slice().iter().fold(0.0, |max, x| x.abs().max(max))
    }

    /// Largest absolute difference of two entries, NaN if there is one.
    pub fn max_abs_diff(&self, other: &Self) -> Result<f64> {
        Ok(self.sub(other)?.max_abs())
    }

    fn zip_with(
        &self,
        operation: &'static str,
        other: &Self,
        f: impl Fn(f64, f64) -> f64,
    ) -> Result<Self> {
        self.check_pair(
            operation,
            other,
            self.shape() == other.shape(),
            "equal shapes",
        )?;
        Ok(Self::from_fn(self.rows(), self.cols(), |i, j| {
            f(self.get(i, j), other.get(i, j))
        }))
    }
}

fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Matrix {
    let (m, k, n) = (left.nrows(), left.ncols(), right.ncols());
    let mut out = Matrix::zeros(m, n);
    let par = parallelism((m * k).max(k * n).max(m * n));
    matmul(out.view_mut(), Accum::Replace, left, right, 1.0, par);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{matrices, seeded, tolerance};

    #[test]
    fn operands_must_fit() {
        let error = Matrix::zeros(2, 3)
            .matmul(&Matrix::zeros(2, 3))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "matmul: found shapes 2x3 and 2x3, expected columns = rows"
        );
        assert!(Matrix::zeros(2, 3).add(&Matrix::zeros(3, 2)).is_err());
        assert_eq!(
            Matrix::zeros(2, 0).matmul(&Matrix::zeros(0, 3)).unwrap(),
            Matrix::zeros(2, 3)
        );
    }

    #[test]
    fn nan_is_seen() {
        let mut a = Matrix::zeros(2, 2);
        a.set(0, 1, f64::NAN);
        assert!(a.max_abs().is_nan());
        assert!(a.max_abs_diff(&a).unwrap().is_nan());
    }

    #[test]
    fn norm_survives_extreme_scales() {
        for scale in [1e-200, 1e200] {
            let norm = Matrix::from_fn(2, 2, |_, _| scale).frobenius_norm();
            assert!((norm / scale - 2.0).abs() < 1e-14, "{norm}");
        }
    }

    proptest! {
        #[test]
        fn product_is_the_sum_of_products(a in matrices(), cols in 1usize..20, seed: u64) {
            let b = seeded(a.cols(), cols, seed);
            let expected = Matrix::from_fn(a.rows(), cols, |i, j| {
                (0..a.cols()).map(|k| a.get(i, k) * b.get(k, j)).sum()
            });
            let bound = tolerance(&a) * b.frobenius_norm();
            prop_assert!(a.matmul(&b).unwrap().max_abs_diff(&expected).unwrap() <= bound);
            prop_assert!(a.transpose().transpose_matmul(&b).unwrap().max_abs_diff(&expected).unwrap() <= bound);
        }

        #[test]
        fn kronecker_mixed_product(a in matrices(), b in matrices(), seed: u64) {
            let (c, d) = (seeded(a.cols(), 2, seed), seeded(b.cols(), 3, seed ^ 1));
            let left = a.kron(&b).matmul(&c.kron(&d)).unwrap();
            let right = a.matmul(&c).unwrap().kron(&b.matmul(&d).unwrap());
            let bound = tolerance(&a) * b.frobenius_norm() * c.frobenius_norm() * d.frobenius_norm()
                * b.rows().max(b.cols()) as f64;
            prop_assert!(left.max_abs_diff(&right).unwrap() <= bound);
        }
    }
}
