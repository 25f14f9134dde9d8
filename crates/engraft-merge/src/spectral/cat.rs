//! Concatenation: the exact sum of updates of low rank, as factors.
//!
//! ```text
//! sum_i w_i B_i A_i = [w_1 B_1 ... w_n B_n] [A_1; ...; A_n]
//! ```
//!
//! of rank sum_i r_i, which [`compact`] brings down to the rank that the sum really has.

use engraft_linalg::Svd;

use super::significant;
use crate::error::{Error, Result};
use crate::update::{Factors, Update};

/// sum_i w_i dW_i of updates of low rank, their factors side by side; biases add up alike.
///
/// # Errors
/// No updates, updates of different shapes, or one that is not of low rank.
pub fn cat(terms: &[(f64, &Update)]) -> Result<Update> {
    match terms.iter().position(|(_, update)| !update.is_low_rank()) {
        Some(at) => Err(Error::input(format!(
            "update {at} is not of low rank and has no factors to concatenate: factorise it first, or merge linearly"
        ))),
        None => Update::combination(terms.iter().copied()),
    }
}

/// The same product with as few columns as its rank: QR of both factors and the singular values of
/// the small matrix between. Singular values below rounding of the factors' norms are left out.
///
/// # Errors
/// NaN or infinite numbers.
pub fn compact(factors: &Factors) -> Result<Factors> {
    if factors.rank() == 0 {
        return Ok(factors.clone());
    }
    let all: Svd = factors.svd()?;
    // Terms that cancel leave the rounding of what they were.
    let scale = factors.left.frobenius_norm() * factors.right.frobenius_norm();
    match significant(&all, scale, f64::EPSILON) {
        0 => Factors::new(
            engraft_linalg::Matrix::zeros(factors.left.rows(), 0),
            engraft_linalg::Matrix::zeros(0, factors.right.cols()),
        ),
        rank => all.truncated(rank)?.try_into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense, dense_of, distance, low_rank};

    proptest! {
        #[test]
        fn concatenation_is_the_sum(m in 1usize..9, n in 1usize..9, r in 1usize..4, q in 1usize..4, seed: u64, w in -2.0..2.0f64) {
            let (a, b) = (low_rank(m, n, r, seed), low_rank(m, n, q, seed ^ 1));
            let sum = cat(&[(w, &a), (1.0, &b)]).unwrap();
            prop_assert_eq!(sum.low_rank.as_ref().unwrap().rank(), r + q);
            let expected = dense_of(&a).scale(w).add(&dense_of(&b)).unwrap();
            prop_assert!(distance(&dense_of(&sum), &expected) < 1e-12);
            let small = compact(sum.low_rank.as_ref().unwrap()).unwrap();
            prop_assert!(small.rank() <= (r + q).min(m).min(n));
            prop_assert!(distance(&small.product().unwrap(), &expected) < 1e-10);
            let nothing = cat(&[(1.0, &a), (-1.0, &a)]).unwrap();
            prop_assert_eq!(compact(nothing.low_rank.as_ref().unwrap()).unwrap().rank(), 0);
        }
    }

    #[test]
    fn matrices_have_no_factors() {
        assert!(cat(&[(1.0, &dense(2, 3, 1))]).is_err());
        assert!(cat(&[]).is_err());
    }
}
