//! Matrices and tolerances for the property tests.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Matrix, gaussian, qr};

/// Gaussian matrix of a seed.
pub fn seeded(rows: usize, cols: usize, seed: u64) -> Matrix {
    gaussian(rows, cols, &mut ChaCha8Rng::seed_from_u64(seed))
}

/// Random orthogonal matrix of a seed.
pub fn orthogonal(n: usize, seed: u64) -> Matrix {
    qr(&seeded(n, n, seed)).unwrap().q
}

/// Rounding error a backward stable algorithm may make: c eps max(m, n) ||A||.
pub fn tolerance(a: &Matrix) -> f64 {
    unit_tolerance(a) * a.frobenius_norm()
}

/// The same for a matrix of norm one, such as an orthogonal factor.
pub fn unit_tolerance(a: &Matrix) -> f64 {
    32.0 * f64::EPSILON * a.rows().max(a.cols()) as f64
}

/// Deviation of the columns from orthonormality, the largest entry of |A^T A - I|.
pub fn orthonormality(a: &Matrix) -> f64 {
    let gram = a.transpose_matmul(a).unwrap();
    gram.max_abs_diff(&Matrix::identity(a.cols())).unwrap()
}

/// Matrix with singular values evenly spaced in the logarithm from 1 to 1e-12.
pub fn ill_conditioned(rows: usize, cols: usize, seed: u64) -> Matrix {
    let k = rows.min(cols);
    let s: Vec<f64> = (0..k)
        .map(|i| 10f64.powf(-12.0 * i as f64 / (k.max(2) - 1) as f64))
        .collect();
    let u = qr(&seeded(rows, k, seed)).unwrap().q;
    let v = qr(&seeded(cols, k, seed ^ 1)).unwrap().q;
    u.scale_columns(&s).unwrap().matmul(&v.transpose()).unwrap()
}

/// Small matrices: tall, wide, rows, columns; full rank, rank-deficient, ill-conditioned, with
/// exact zeros and repeated entries, zero, very small and very large, repeated singular values.
pub fn matrices() -> impl Strategy<Value = Matrix> {
    let side = || prop_oneof![1 => Just(1usize), 4 => 1usize..=18];
    (side(), side(), any::<u64>(), 0..9).prop_map(|(rows, cols, seed, kind)| match kind {
        0 => seeded(rows, cols, seed),
        1 => {
            let rank = rows.min(cols).div_ceil(2);
            seeded(rows, rank, seed)
                .matmul(&seeded(rank, cols, seed ^ 1))
                .unwrap()
        }
        2 => ill_conditioned(rows, cols, seed),
        3 => {
            let a = seeded(rows, cols, seed);
            Matrix::from_fn(rows, cols, |i, j| a.get(i, j).round())
        }
        4 => Matrix::from_fn(rows, cols, |_, _| (seed % 3) as f64),
        5 => seeded(rows, cols, seed).scale(1e-120),
        // Skew-symmetric: singular values in equal pairs. Orthogonal: all equal.
        6 => {
            let a = seeded(rows, rows, seed);
            a.sub(&a.transpose()).unwrap()
        }
        7 => orthogonal(rows, seed),
        _ => seeded(rows, cols, seed).scale(1e120),
    })
}
