//! A product of two thin factors.

use engraft_linalg::{Matrix, Svd, product_svd};

use crate::error::Result;

/// L R, for L of `[rows, rank]` and R of `[rank, columns]`: B and A of LoRA, the scaling within.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// L.
    pub left: Matrix,
    /// R.
    pub right: Matrix,
}

impl Factors {
    /// L R.
    ///
    /// # Errors
    /// Unless L has as many columns as R has rows.
    pub fn new(left: Matrix, right: Matrix) -> Result<Self> {
        match left.cols() == right.rows() {
            true => Ok(Self { left, right }),
            false => Err(engraft_linalg::LinalgError::Shape {
                operation: "low-rank update",
                left: left.shape(),
                right: right.shape(),
                expected: "columns = rows",
            }
            .into()),
        }
    }

    /// How many columns L has; the rank of the product is at most that.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.left.cols()
    }

    /// c L R.
    #[must_use]
    pub fn scaled(&self, c: f64) -> Self {
        Self {
            left: self.left.scale(c),
            right: self.right.clone(),
        }
    }

    /// L R + L' R' = [L L'] [R; R'].
    ///
    /// # Errors
    /// Products of different shapes.
    pub fn beside(&self, other: &Self) -> Result<Self> {
        Self::new(
            columns_beside(&[&self.left, &other.left])?,
            rows_below(&[&self.right, &other.right])?,
        )
    }

    /// (L R)^T = R^T L^T.
    #[must_use]
    pub fn transposed(&self) -> Self {
        Self {
            left: self.right.transpose(),
            right: self.left.transpose(),
        }
    }

    /// L R itself.
    ///
    /// # Errors
    /// None for factors that fit.
    pub fn product(&self) -> Result<Matrix> {
        Ok(self.left.matmul(&self.right)?)
    }

    /// Its singular values and vectors, without the product.
    ///
    /// # Errors
    /// Factors of rank 0, NaN or infinite numbers.
    pub fn svd(&self) -> Result<Svd> {
        Ok(product_svd(&self.left, &self.right)?)
    }

    /// tr(R^T L^T L' R'): the inner product with another of the same shape, from the two small Gram
    /// matrices.
    ///
    /// # Errors
    /// Products of different shapes.
    pub fn dot(&self, other: &Self) -> Result<f64> {
        let left = self.left.transpose_matmul(&other.left)?;
        let right = self.right.matmul(&other.right.transpose())?;
        let both = left.as_slice().iter().zip(right.as_slice());
        Ok(both.map(|(a, b)| a * b).sum())
    }
}

/// U S V^T as the factors U S and V^T.
impl TryFrom<Svd> for Factors {
    type Error = crate::Error;

    fn try_from(svd: Svd) -> Result<Self> {
        Self::new(svd.u.scale_columns(&svd.s)?, svd.vt)
    }
}

/// [M_1 M_2 ...].
///
/// # Errors
/// No matrices, or different numbers of rows.
pub fn columns_beside(matrices: &[&Matrix]) -> Result<Matrix> {
    let rows = matrices.first().map_or(0, |matrix| matrix.rows());
    let mut data = Vec::with_capacity(matrices.iter().map(|m| m.rows() * m.cols()).sum());
    for row in 0..rows {
        for matrix in matrices.iter().filter(|matrix| row < matrix.rows()) {
            data.extend_from_slice(matrix.row(row));
        }
    }
    let columns = matrices.iter().map(|matrix| matrix.cols()).sum();
    Ok(Matrix::from_vec(rows, columns, data)?)
}

/// [M_1; M_2; ...].
///
/// # Errors
/// No matrices, or different numbers of columns.
pub fn rows_below(matrices: &[&Matrix]) -> Result<Matrix> {
    let columns = matrices.first().map_or(0, |matrix| matrix.cols());
    let rows = matrices.iter().map(|matrix| matrix.rows()).sum();
    let data: Vec<f64> = matrices
        .iter()
        .flat_map(|matrix| matrix.as_slice().iter().copied())
        .collect();
    Ok(Matrix::from_vec(rows, columns, data)?)
}
