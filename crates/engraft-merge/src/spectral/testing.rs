//! What the tests of merging share.

use engraft_linalg::{Matrix, gaussian};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::update::{Dense, Factors, Update};

/// A matrix of normal numbers.
pub(crate) fn matrix(rows: usize, columns: usize, seed: u64) -> Matrix {
    gaussian(rows, columns, &mut ChaCha8Rng::seed_from_u64(seed))
}

/// L R of normal numbers.
pub(crate) fn factors(rows: usize, columns: usize, rank: usize, seed: u64) -> Factors {
    let right = matrix(rank, columns, seed.wrapping_add(1 << 40));
    Factors::new(matrix(rows, rank, seed), right).unwrap()
}

/// An update of low rank.
pub(crate) fn low_rank(rows: usize, columns: usize, rank: usize, seed: u64) -> Update {
    Update::low_rank(factors(rows, columns, rank, seed))
}

/// An update without structure.
pub(crate) fn dense(rows: usize, columns: usize, seed: u64) -> Update {
    let data = matrix(rows, columns, seed).to_f32();
    Update::dense(Dense::new(rows, columns, data).unwrap())
}

/// dW in double precision, which [`Update::to_dense`] has not.
pub(crate) fn dense_of(update: &Update) -> Matrix {
    match &update.low_rank {
        Some(factors) if update.is_low_rank() => factors.product().unwrap(),
        _ => update.to_dense(None).unwrap().to_matrix().unwrap(),
    }
}

/// |A - B| / |B|, |A| where B is zero.
pub(crate) fn distance(a: &Matrix, b: &Matrix) -> f64 {
    let error = a.sub(b).unwrap().frobenius_norm();
    match b.frobenius_norm() {
        0.0 => error,
        norm => error / norm,
    }
}

/// References of updates.
pub(crate) fn refs(updates: &[Update]) -> Vec<&Update> {
    updates.iter().collect()
}
