//! QR decomposition and the linear systems solved with it.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
};
use faer::linalg::qr::no_pivoting::factor::{
    qr_in_place, qr_in_place_scratch, recommended_block_size,
};
use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::{Conj, Mat};

use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;
use crate::parallel::parallelism;

/// Thin QR decomposition A = Q R.
#[derive(Debug, Clone, PartialEq)]
pub struct Qr {
    /// Orthonormal columns, m x min(m, n).
    pub q: Matrix,
    /// Upper triangular (trapezoidal if wide), min(m, n) x n, with a non-negative diagonal.
    pub r: Matrix,
}

/// Thin QR decomposition of an m x n matrix by Householder reflections.
///
/// The diagonal of R is non-negative, which makes the factors of a matrix of full column rank
/// unique (Golub and Van Loan 2013, theorem 5.2.3). Q is orthonormal for every rank.
///
/// Errors: an empty matrix, NaN or infinite entries.
pub fn qr(a: &Matrix) -> Result<Qr> {
    signed(a, |diagonal| if diagonal < 0.0 { -1.0 } else { 1.0 })
}

/// [`qr`] with the signs that the reflections leave, as in LAPACK's `geqrf` and PyTorch's `qr`:
/// an entry of R's diagonal is negative unless the entry it replaces was.
///
/// Errors: as [`qr`].
pub fn householder_qr(a: &Matrix) -> Result<Qr> {
    signed(a, |_| 1.0)
}

/// The decomposition with the rows of R times the signs chosen from its diagonal.
fn signed(a: &Matrix, sign: impl Fn(f64) -> f64) -> Result<Qr> {
    a.check_finite("qr")?;
    let (m, n) = a.shape();
    let (k, par) = (m.min(n), parallelism(m * n));
    let block = recommended_block_size::<f64>(m, n);
    let (mut factors, scale) = a.normalized();
    let mut coefficients = Mat::zeros(block, k);
    let scratch = qr_in_place_scratch::<f64>(m, n, block, par, Default::default())
        .or(apply_scratch::<f64>(m, block, k));
    let mut buffer = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut buffer);
    qr_in_place(
        factors.as_mut(),
        coefficients.as_mut(),
        par,
        stack,
        Default::default(),
    );

    let sign: Vec<f64> = (0..k).map(|i| sign(factors[(i, i)])).collect();
    let r = Matrix::from_fn(k, n, |i, j| {
        if i <= j {
            sign[i] * scale * factors[(i, j)]
        } else {
            0.0
        }
    });
    // Starting from diag(sign) instead of I flips the columns of Q along with the rows of R.
    let mut q = Mat::from_fn(m, k, |i, j| if i == j { sign[j] } else { 0.0 });
    let basis = factors.get(.., ..k);
    apply(
        basis,
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        par,
        stack,
    );
    Ok(Qr {
        q: Matrix::from_view(q.as_ref()),
        r,
    })
}

/// Solution X of A X = B for a square A (n x n) and B (n x p), by QR.
///
/// Errors: shapes that do not fit, NaN or infinite entries, a matrix singular to working
/// precision (a diagonal entry of R below n eps ||A||).
pub fn solve(a: &Matrix, b: &Matrix) -> Result<Matrix> {
    let n = a.check_square("solve")?;
    a.check_pair("solve", b, n == b.rows(), "as many rows on both sides")?;
    b.check_finite("solve")?;
    let Qr { q, r } = qr(a)?;
    let pivot = (0..n).map(|i| r.get(i, i)).fold(f64::INFINITY, f64::min);
    let threshold = n as f64 * f64::EPSILON * r.frobenius_norm();
    if pivot <= threshold {
        return Err(LinalgError::Singular {
            operation: "solve",
            pivot,
            threshold,
        });
    }
    let mut x = q.transpose_matmul(b)?;
    solve_upper_triangular_in_place(r.view(), x.view_mut(), parallelism(n * n));
    Ok(x)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{matrices, orthonormality, seeded, tolerance, unit_tolerance};

    fn check(a: &Matrix) {
        let Qr { q, r } = qr(a).unwrap();
        let k = a.rows().min(a.cols());
        assert_eq!((q.shape(), r.shape()), ((a.rows(), k), (k, a.cols())));
        let difference = q.matmul(&r).unwrap().max_abs_diff(a).unwrap();
        assert!(
            difference <= tolerance(a),
            "{difference:e} > {:e}",
            tolerance(a)
        );
        assert!(orthonormality(&q) <= unit_tolerance(a));
        assert!((0..k).all(|i| r.get(i, i) >= 0.0));
        assert!((0..k).all(|i| r.row(i)[..i].iter().all(|&x| x == 0.0)));
    }

    proptest! {
        #[test]
        fn defining_identity(a in matrices()) {
            check(&a);
        }

        #[test]
        fn solve_inverts_the_product(n in 1usize..20, p in 1usize..5, seed: u64) {
            let a = seeded(n, n, seed).add(&Matrix::identity(n).scale(2.0 * n as f64)).unwrap();
            let x = seeded(n, p, seed ^ 1);
            let found = solve(&a, &a.matmul(&x).unwrap()).unwrap();
            prop_assert!(found.max_abs_diff(&x).unwrap() <= 10.0 * tolerance(&a) * x.max_abs());
        }
    }

    #[test]
    fn householder_signs_are_those_of_lapack() {
        let a = seeded(7, 4, 9);
        let Qr { q, r } = householder_qr(&a).unwrap();
        let product = q.matmul(&r).unwrap();
        assert!(product.max_abs_diff(&a).unwrap() <= tolerance(&a));
        assert!(r.get(0, 0) * a.get(0, 0) < 0.0);
        // Nothing is left to reflect in the last column of a square matrix.
        let Qr { q, r } = householder_qr(&Matrix::from_diagonal(&[-3.0])).unwrap();
        assert_eq!((q.get(0, 0), r.get(0, 0)), (1.0, -3.0));
    }

    #[test]
    fn zero_columns_and_blocks() {
        check(&Matrix::from_fn(9, 7, |i, j| {
            if j % 2 == 0 { 0.0 } else { (i * j) as f64 }
        }));
        check(&Matrix::zeros(3, 5));
        let mut wide = seeded(40, 90, 3);
        (0..40).for_each(|i| wide.row_mut(i)[..20].fill(0.0));
        check(&wide);
        check(&seeded(300, 260, 4));
        check(&seeded(7, 5, 5).scale(2f64.powi(-1000)));
        check(&seeded(7, 5, 5).scale(2f64.powi(1000)));
    }

    #[test]
    fn singular_and_misshaped_systems_are_refused() {
        let ones = Matrix::from_fn(3, 3, |_, _| 1.0);
        assert!(matches!(
            solve(&ones, &ones),
            Err(LinalgError::Singular { .. })
        ));
        assert!(solve(&Matrix::zeros(2, 3), &ones).is_err());
        assert!(solve(&ones, &Matrix::zeros(2, 1)).is_err());
        assert!(qr(&Matrix::from_fn(2, 2, |_, _| f64::INFINITY)).is_err());
        assert!(qr(&Matrix::zeros(0, 2)).is_err());
    }
}
