//! Tensor-train decomposition.

use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;
use crate::svd::{Svd, svd};

/// Tensor train: T(i_1, ..., i_d) = G_1(i_1) G_2(i_2) ... G_d(i_d), where G_k(i_k) is an
/// r_{k-1} x r_k matrix and r_0 = r_d = 1.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorTrain {
    /// Cores; core k is (r_{k-1} n_k) x r_k, with G_k(i) in the rows a n_k + i, that is the
    /// row-major array of shape (r_{k-1}, n_k, r_k).
    pub cores: Vec<Matrix>,
    /// Mode sizes n_1, ..., n_d.
    pub modes: Vec<usize>,
    /// Frobenius norm of what the truncation left out, the root of the sum of the squared
    /// singular values dropped on the way.
    pub truncation_error: f64,
}

/// Tensor train of the row-major tensor `values` with the given mode sizes, of ranks at most
/// `max_rank`, by successive singular value decompositions (TT-SVD, Oseledets 2011, algorithm 1).
///
/// For a matrix give its entries and the factors of its rows and then of its columns as modes.
/// All cores but the last have orthonormal columns; the error is within sqrt(d - 1) of the best
/// for these ranks.
///
/// Errors: no modes, modes whose product is not the number of values, a maximal rank of 0, NaN
/// or infinite values.
pub fn tt_svd(values: &[f64], modes: &[usize], max_rank: usize) -> Result<TensorTrain> {
    let product = modes
        .iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n));
    let (expected, last) = (values.len(), modes.last().copied().unwrap_or(0));
    if product != Some(expected) || last == 0 {
        return Err(LinalgError::Modes {
            modes: modes.to_vec(),
            product,
            expected,
        });
    }
    if max_rank == 0 {
        return Err(LinalgError::Rank {
            operation: "tensor train",
            rank: 0,
            min: 1,
            max: usize::MAX,
        });
    }
    let mut rest = Matrix::from_vec(1, expected, values.to_vec())?;
    rest.check_finite("tensor train")?;

    let mut cores = Vec::with_capacity(modes.len());
    let mut dropped = 0f64;
    for &mode in &modes[..modes.len() - 1] {
        let (rows, cols) = (rest.rows() * mode, rest.cols() / mode);
        let full = svd(&Matrix::from_vec(rows, cols, rest.into_vec())?)?;
        let rank = full.s.len().min(max_rank);
        dropped = full.s[rank..]
            .iter()
            .fold(dropped, |norm, &s| norm.hypot(s));
        let Svd { u, s, vt } = full.truncated(rank)?;
        rest = vt.scale_rows(&s)?;
        cores.push(u);
    }
    cores.push(Matrix::from_vec(rest.rows() * last, 1, rest.into_vec())?);
    Ok(TensorTrain {
        cores,
        modes: modes.to_vec(),
        truncation_error: dropped,
    })
}

impl TensorTrain {
    /// Ranks r_0 = 1, r_1, ..., r_d = 1.
    pub fn ranks(&self) -> Vec<usize> {
        std::iter::once(1)
            .chain(self.cores.iter().map(Matrix::cols))
            .collect()
    }

    /// Number of entries of all cores, sum_k r_{k-1} n_k r_k.
    pub fn parameters(&self) -> usize {
        self.cores.iter().map(|core| core.as_slice().len()).sum()
    }

    /// The tensor, row-major.
    ///
    /// Errors: cores that do not fit the modes and each other.
    pub fn reconstruct(&self) -> Result<Vec<f64>> {
        let mut product = Matrix::identity(1);
        for (core, &mode) in self.cores.iter().zip(&self.modes) {
            // (n_1 ... n_{k-1}) x r_{k-1} times r_{k-1} x (n_k r_k), then n_k joins the rows.
            let (rank, cols) = (product.cols(), core.cols());
            let unfolded = Matrix::from_vec(rank, mode * cols, core.as_slice().to_vec())?;
            let rows = product.rows() * mode;
            product = Matrix::from_vec(rows, cols, product.matmul(&unfolded)?.into_vec())?;
        }
        Ok(product.into_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{orthonormality, seeded, unit_tolerance};

    fn tensors() -> impl Strategy<Value = (Vec<usize>, Matrix)> {
        (proptest::collection::vec(1usize..5, 1..6), any::<u64>()).prop_map(|(modes, seed)| {
            let values = seeded(1, modes.iter().product(), seed);
            (modes, values)
        })
    }

    fn difference(train: &TensorTrain, values: &Matrix) -> f64 {
        let found = Matrix::from_vec(1, values.cols(), train.reconstruct().unwrap()).unwrap();
        found.sub(values).unwrap().frobenius_norm()
    }

    proptest! {
        #[test]
        fn full_rank_is_exact((modes, values) in tensors()) {
            let train = tt_svd(values.as_slice(), &modes, usize::MAX).unwrap();
            let bound = unit_tolerance(&values) * values.frobenius_norm();
            prop_assert!(difference(&train, &values) <= bound);
            prop_assert_eq!(train.truncation_error, 0.0);
            for core in &train.cores[..modes.len() - 1] {
                prop_assert!(orthonormality(core) <= unit_tolerance(&values));
            }
        }

        #[test]
        fn truncation_error_is_what_is_missing((modes, values) in tensors(), rank in 1usize..5) {
            let train = tt_svd(values.as_slice(), &modes, rank).unwrap();
            let bound = 4.0 * unit_tolerance(&values) * values.frobenius_norm();
            prop_assert!((difference(&train, &values) - train.truncation_error).abs() <= bound);
            let ranks = train.ranks();
            prop_assert!(ranks.iter().all(|&r| r <= rank));
            let expected: usize = modes.iter().enumerate().map(|(k, n)| ranks[k] * n * ranks[k + 1]).sum();
            prop_assert_eq!(train.parameters(), expected);
        }

        #[test]
        fn rank_one_tensor_has_rank_one_train(modes in proptest::collection::vec(1usize..5, 1..5), seed: u64) {
            let values = modes.iter().enumerate().fold(Matrix::identity(1), |product, (k, &n)| {
                product.kron(&seeded(1, n, seed ^ k as u64))
            });
            let train = tt_svd(values.as_slice(), &modes, 1).unwrap();
            prop_assert!(difference(&train, &values) <= unit_tolerance(&values) * values.frobenius_norm());
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        let error = tt_svd(&[0.0; 6], &[2, 2], 1).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("modes [2, 2] hold 4 entries, expected 6"),
            "{error}"
        );
        assert!(tt_svd(&[0.0; 6], &[usize::MAX, 6], 1).is_err());
        assert!(tt_svd(&[], &[], 1).is_err());
        assert!(tt_svd(&[], &[0, 3], 1).is_err());
        assert!(tt_svd(&[1.0], &[], 1).is_err());
        assert!(tt_svd(&[0.0; 6], &[2, 3], 0).is_err());
        assert!(tt_svd(&[f64::NAN; 6], &[2, 3], 2).is_err());
        assert!(tt_svd(&[f64::NAN; 6], &[6], 2).is_err());
    }
}
