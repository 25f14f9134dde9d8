//! Randomised singular value decomposition.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;
use crate::operator::{Operator, check_product};
use crate::orthonormal::thin_qr;
use crate::qr::Qr;
use crate::svd::{Svd, check_rank, svd};

/// Matrix of independent standard normal entries, drawn row by row.
pub fn gaussian(rows: usize, cols: usize, rng: &mut (impl Rng + ?Sized)) -> Matrix {
    Matrix::from_fn(rows, cols, |_, _| StandardNormal.sample(rng))
}

/// Rank-`rank` approximation of the singular value decomposition of an m x n matrix by random
/// projection: Gaussian test matrix with `rank + oversample` columns (at most min(m, n)), then
/// [`randomized_svd_with`].
///
/// Errors: an inadmissible rank, an empty matrix, NaN or infinite entries.
pub fn randomized_svd(
    a: &(impl Operator + ?Sized),
    rank: usize,
    oversample: usize,
    power_iterations: usize,
    rng: &mut (impl Rng + ?Sized),
) -> Result<Svd> {
    let (m, n) = a.shape();
    let max = m.min(n);
    check_rank("randomized svd", rank, 1, max)?;
    let test = gaussian(n, rank.saturating_add(oversample).min(max), rng);
    randomized_svd_with(a, rank, power_iterations, &test)
}

/// [`randomized_svd`] with the test matrix Omega (n x l, l >= rank) given by the caller.
///
/// The range of Y = (A A^T)^q A Omega is found by q subspace iterations with a QR decomposition
/// after every product, which keeps small singular directions from drowning in rounding; then
/// the small matrix Q^T A (l x n) is decomposed (Halko, Martinsson and Tropp 2011, algorithms 4.4
/// and 5.1). 2 q + 2 passes over A, 4 (q + 1) m n l flops in its own precision; everything thin is
/// in f64. Signs as in [`svd()`].
///
/// Errors: an inadmissible rank, a test matrix of the wrong shape, an empty matrix, NaN or
/// infinite entries.
pub fn randomized_svd_with(
    a: &(impl Operator + ?Sized),
    rank: usize,
    power_iterations: usize,
    test: &Matrix,
) -> Result<Svd> {
    let (m, n) = a.shape();
    check_rank("randomized svd", rank, 1, m.min(n))?;
    if test.rows() != n || test.cols() < rank {
        return Err(LinalgError::Shape {
            operation: "randomized svd",
            left: (m, n),
            right: test.shape(),
            expected: "a test matrix with a row for each column of the matrix and at least rank columns",
        });
    }
    test.check_finite("test matrix of the randomized svd")?;

    let image = a.times(test);
    check_product("randomized svd", a, &image)?;
    let mut range = thin_qr(&image)?.q;
    for _ in 0..power_iterations {
        let corange = thin_qr(&a.transpose_times(&range))?.q;
        range = thin_qr(&a.times(&corange))?.q;
    }
    // Q^T A = R^T P^T with an orthonormal P: the decomposition is that of R^T, l x l.
    let Qr { q: corange, r } = thin_qr(&a.transpose_times(&range))?;
    let small = svd(&r.transpose())?.truncated(rank)?;
    Ok(Svd {
        u: range.matmul(&small.u)?,
        s: small.s,
        vt: small.vt.matmul(&corange.transpose())?,
    }
    .with_fixed_signs())
}

/// Frobenius norm of what an approximation leaves out, ||A - U diag(s) V^T||_F.
///
/// Errors: an approximation of another shape.
pub fn residual(a: &Matrix, approximation: &Svd) -> Result<f64> {
    Ok(a.sub(&approximation.reconstruct()?)?.frobenius_norm())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::LinalgError;
    use crate::testing::{
        ill_conditioned, matrices, orthonormality, seeded, tolerance, unit_tolerance,
    };

    fn tail(full: &Svd, rank: usize) -> f64 {
        full.s[rank..].iter().map(|s| s * s).sum::<f64>().sqrt()
    }

    proptest! {
        #[test]
        fn full_test_matrix_gives_the_exact_decomposition(a in matrices(), q in 0usize..3, seed: u64) {
            let k = a.rows().min(a.cols());
            let found = randomized_svd(&a, k, 0, q, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
            let exact = svd(&a).unwrap();
            // If A is not tall the basis found spans the whole space and the result is exact. If it
            // is, the test matrix may be nearly singular and blur a direction.
            prop_assert!(orthonormality(&found.u) <= 4.0 * unit_tolerance(&a));
            prop_assert!(orthonormality(&found.vt.transpose()) <= 4.0 * unit_tolerance(&a));
            if a.rows() <= a.cols() {
                prop_assert!(residual(&a, &found).unwrap() <= 4.0 * tolerance(&a));
                for (x, y) in found.s.iter().zip(&exact.s) {
                    prop_assert!((x - y).abs() <= 4.0 * tolerance(&a));
                }
            }
        }

        #[test]
        fn exact_rank_is_recovered(m in 5usize..30, n in 5usize..30, rank in 1usize..5, seed: u64) {
            let a = seeded(m, rank, seed).matmul(&seeded(rank, n, seed ^ 1)).unwrap();
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 2);
            let found = randomized_svd(&a, rank, 5, 1, &mut rng).unwrap();
            prop_assert!(residual(&a, &found).unwrap() <= 10.0 * tolerance(&a));
        }

        #[test]
        fn never_better_than_the_best(a in matrices(), seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let rank = a.rows().min(a.cols()).div_ceil(2);
            let found = randomized_svd(&a, rank, 2, 1, &mut rng).unwrap();
            let best = residual(&a, &svd(&a).unwrap().truncated(rank).unwrap()).unwrap();
            prop_assert!(residual(&a, &found).unwrap() >= best - 4.0 * tolerance(&a));
        }
    }

    #[test]
    fn expected_error_bound_holds() {
        // Halko et al. 2011, theorem 10.5: E ||A - Q Q^T A||_F <= sqrt(1 + k / (p - 1)) tail_k for
        // q = 0; the mean over seeds must respect it. Truncation to rank k adds at most tail_k.
        let (rank, oversample) = (5, 5);
        let a = ill_conditioned(40, 30, 9);
        let best = tail(&svd(&a).unwrap(), rank);
        let mean = (0..50)
            .map(|seed| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                residual(
                    &a,
                    &randomized_svd(&a, rank, oversample, 0, &mut rng).unwrap(),
                )
                .unwrap()
            })
            .sum::<f64>()
            / 50.0;
        let bound = (1.0 + rank as f64 / (oversample - 1) as f64).sqrt() * best + best;
        assert!(mean <= bound, "{mean:e} > {bound:e}");
    }

    #[test]
    fn power_iterations_sharpen_small_directions() {
        // Without the QR between the products, directions below eps^(1/5) would be lost.
        let a = ill_conditioned(60, 50, 3);
        let exact = svd(&a).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let found = randomized_svd(&a, 30, 10, 2, &mut rng).unwrap();
        for (x, y) in found.s.iter().zip(&exact.s) {
            assert!((x - y).abs() <= 1e-3 * y + tolerance(&a), "{x:e} {y:e}");
        }
        let same = randomized_svd(&a, 30, 10, 2, &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
        assert_eq!(found, same);
    }

    #[test]
    fn inadmissible_input_is_refused() {
        let a = seeded(4, 6, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let error = randomized_svd(&a, 5, 0, 0, &mut rng).unwrap_err();
        assert_eq!(
            error,
            LinalgError::Rank {
                operation: "randomized svd",
                rank: 5,
                min: 1,
                max: 4
            }
        );
        assert!(randomized_svd(&a, 2, usize::MAX, 0, &mut rng).is_ok());
        assert!(randomized_svd_with(&a, 2, 0, &seeded(5, 2, 1)).is_err());
        assert!(randomized_svd_with(&a, 2, 0, &seeded(6, 1, 1)).is_err());
        assert!(randomized_svd_with(&a, 2, 0, &seeded(6, 9, 1)).is_ok());
        assert!(randomized_svd_with(&a.scale(f64::NAN), 2, 0, &seeded(6, 2, 1)).is_err());
        assert!(randomized_svd_with(&a, 2, 0, &seeded(6, 2, 1).scale(f64::NAN)).is_err());
    }
}
