//! Singular value decomposition.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, SvdError, svd as faer_svd, svd_scratch};
use faer::{Mat, MatMut, MatRef};

use crate::error::{LinalgError, Result};
use crate::jacobi::jacobi_svd;
use crate::matrix::Matrix;
use crate::parallel::parallelism;

/// Entries this close to the largest of their singular vector count as ties with it.
const TIE: f64 = 1e-6;

/// Thin or truncated singular value decomposition A ~ U diag(s) V^T.
#[derive(Debug, Clone, PartialEq)]
pub struct Svd {
    /// Left singular vectors as orthonormal columns, m x k.
    pub u: Matrix,
    /// Singular values in non-increasing order, k of them.
    pub s: Vec<f64>,
    /// Right singular vectors as orthonormal rows, k x n.
    pub vt: Matrix,
}

/// Thin singular value decomposition of an m x n matrix, k = min(m, n).
///
/// Sign convention: in each column of U the entry of largest absolute value is positive, and the
/// row of V^T carries the matching sign. Of entries that tie with the largest to within a
/// relative 1e-6 the first decides, so that rounding does not. The result is therefore the same
/// for every thread count. What no convention can fix is the basis inside the space of a
/// repeated (or zero) singular value.
///
/// The scale of A does not matter; a singular value beyond the range of f64 is infinite.
///
/// Errors: an empty matrix, NaN or infinite entries, no convergence.
pub fn svd(a: &Matrix) -> Result<Svd> {
    a.check_finite("svd")?;
    let (normalized, scale) = a.normalized();
    // The iteration on the bidiagonal matrix now and then fails on an ordinary small matrix, of the
    // skew-symmetric ones (singular values in equal pairs) on about one in a hundred thousand.
    let svd = match bidiagonal_svd(normalized.as_ref()) {
        Ok(svd) => svd,
        Err(SvdError::NoConvergence) => jacobi_svd(&Matrix::from_view(normalized.as_ref()))?,
    };
    let s = svd.s.iter().map(|s| s * scale).collect();
    Ok(Svd { s, ..svd }.with_fixed_signs())
}

/// The singular values alone, in non-increasing order: less than half the work of [`svd()`].
///
/// Errors: as [`svd()`].
pub fn singular_values(a: &Matrix) -> Result<Vec<f64>> {
    a.check_finite("singular values")?;
    let (normalized, scale) = a.normalized();
    match decompose(normalized.as_ref(), None) {
        Ok(s) => Ok(s.into_iter().map(|s| s * scale).collect()),
        Err(SvdError::NoConvergence) => Ok(svd(a)?.s),
    }
}

fn bidiagonal_svd(a: MatRef<'_, f64>) -> std::result::Result<Svd, SvdError> {
    let (m, n) = a.shape();
    let k = m.min(n);
    let (mut u, mut v) = (Mat::zeros(m, k), Mat::zeros(n, k));
    let s = decompose(a, Some((u.as_mut(), v.as_mut())))?;
    Ok(Svd {
        u: Matrix::from_view(u.as_ref()),
        s,
        vt: Matrix::from_view(v.transpose()),
    })
}

/// The singular values, and U and V where there is a place for them.
fn decompose(
    a: MatRef<'_, f64>,
    vectors: Option<(MatMut<'_, f64>, MatMut<'_, f64>)>,
) -> std::result::Result<Vec<f64>, SvdError> {
    let (m, n) = a.shape();
    let (mut s, par) = (Diag::zeros(m.min(n)), parallelism(m * n));
    let which = match vectors {
        Some(_) => ComputeSvdVectors::Thin,
        None => ComputeSvdVectors::No,
    };
    let (u, v) = vectors.unzip();
    let scratch = svd_scratch::<f64>(m, n, which, which, par, Default::default());
    let mut buffer = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut buffer);
    faer_svd(a, s.as_mut(), u, v, par, stack, Default::default())?;
    Ok(s.column_vector().iter().copied().collect())
}

impl Svd {
    /// The `rank` largest singular triples, the best approximation of that rank in the Frobenius
    /// and spectral norms (Eckart and Young 1936).
    ///
    /// Errors: a rank of 0 or above the number of triples at hand, min(m, n) for a thin
    /// decomposition.
    pub fn truncated(&self, rank: usize) -> Result<Self> {
        check_rank("truncated svd", rank, 1, self.s.len())?;
        Ok(Self {
            u: self.u.columns(0..rank)?,
            s: self.s[..rank].to_vec(),
            vt: self.vt.first_rows(rank),
        })
    }

    /// Frobenius norm of what [`truncated`](Self::truncated) leaves out, the root of the sum of
    /// the squares of the other singular values; to rounding also where it is small.
    ///
    /// Errors: a rank above the number of triples.
    pub fn truncation_error(&self, rank: usize) -> Result<f64> {
        check_rank("truncation error", rank, 0, self.s.len())?;
        Ok(self.s[rank..]
            .iter()
            .fold(0.0, |norm: f64, &s| norm.hypot(s)))
    }

    /// The product U diag(s) V^T, m x n.
    pub fn reconstruct(&self) -> Result<Matrix> {
        self.u.scale_columns(&self.s)?.matmul(&self.vt)
    }

    /// Share of the `k` largest singular values in the sum of squares, from 0 to 1:
    /// sum_{i < k} s_i^2 / sum_i s_i^2; 1 for a zero matrix.
    ///
    /// Errors: k above the number of singular values.
    pub fn energy(&self, k: usize) -> Result<f64> {
        check_rank("energy", k, 0, self.s.len())?;
        Ok(self.cumulative_energy().nth(k).unwrap_or(1.0))
    }

    /// Smallest k with `energy(k) >= fraction`, from 0 (only for the fraction 0 or a zero
    /// matrix) to the number of singular values.
    ///
    /// Errors: a fraction outside 0 to 1.
    pub fn rank_for_energy(&self, fraction: f64) -> Result<usize> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(LinalgError::Fraction(fraction));
        }
        let enough = self
            .cumulative_energy()
            .position(|energy| energy >= fraction);
        Ok(enough.unwrap_or(self.s.len()))
    }

    /// Energies of 0, 1, ..., k singular values. The last is exactly 1.
    fn cumulative_energy(&self) -> impl Iterator<Item = f64> {
        // Relative to the largest value, so that squares neither overflow nor vanish.
        let largest = self.s.first().copied().unwrap_or(0.0);
        let square = move |s: &f64| {
            if largest > 0.0 {
                (s / largest).powi(2)
            } else {
                0.0
            }
        };
        let total: f64 = self.s.iter().map(square).sum();
        let mut sum = 0.0;
        let sums = self.s.iter().map(move |s| {
            sum += square(s);
            sum
        });
        std::iter::once(0.0)
            .chain(sums)
            .map(move |sum| if total > 0.0 { sum / total } else { 1.0 })
    }

    pub(crate) fn with_fixed_signs(mut self) -> Self {
        for k in 0..self.s.len() {
            let column = |i| self.u.get(i, k);
            let largest = (0..self.u.rows())
                .map(|i| column(i).abs())
                .fold(0.0, f64::max);
            let leader = (0..self.u.rows())
                .map(column)
                .find(|x| x.abs() >= largest * (1.0 - TIE));
            if leader.is_some_and(|x| x < 0.0) {
                (0..self.u.rows()).for_each(|i| self.u.row_mut(i)[k] *= -1.0);
                self.vt.row_mut(k).iter_mut().for_each(|x| *x *= -1.0);
            }
        }
        self
    }
}

pub(crate) fn check_rank(
    operation: &'static str,
    rank: usize,
    min: usize,
    max: usize,
) -> Result<()> {
    if (min..=max).contains(&rank) {
        Ok(())
    } else {
        Err(LinalgError::Rank {
            operation,
            rank,
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        ill_conditioned, matrices, orthonormality, seeded, tolerance, unit_tolerance,
    };

    fn check(a: &Matrix) {
        let Svd { u, s, vt } = svd(a).unwrap();
        let k = a.rows().min(a.cols());
        assert_eq!(
            (u.shape(), s.len(), vt.shape()),
            ((a.rows(), k), k, (k, a.cols()))
        );
        let product = u.scale_columns(&s).unwrap().matmul(&vt).unwrap();
        let difference = product.max_abs_diff(a).unwrap();
        assert!(
            difference <= tolerance(a),
            "{difference:e} > {:e}",
            tolerance(a)
        );
        assert!(orthonormality(&u) <= unit_tolerance(a));
        assert!(orthonormality(&vt.transpose()) <= unit_tolerance(a));
        assert!(s.is_sorted_by(|x, y| x >= y) && s.iter().all(|&x| x >= 0.0));
        for j in 0..k {
            let column: Vec<f64> = (0..a.rows()).map(|i| u.get(i, j)).collect();
            let largest = column.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let leader = column
                .iter()
                .find(|x| x.abs() >= largest * (1.0 - TIE))
                .unwrap();
            assert!(*leader > 0.0);
        }
    }

    proptest! {
        #[test]
        fn defining_identity(a in matrices()) {
            check(&a);
        }

        #[test]
        fn singular_values_agree_with_nalgebra(a in matrices()) {
            let other = DMatrix::from_row_slice(a.rows(), a.cols(), a.as_slice()).singular_values();
            let alone = singular_values(&a).unwrap();
            prop_assert_eq!(alone.len(), other.len());
            for ((ours, theirs), alone) in svd(&a).unwrap().s.iter().zip(other.iter()).zip(&alone) {
                prop_assert!((ours - theirs).abs() <= tolerance(&a), "{ours} {theirs}");
                prop_assert!((alone - theirs).abs() <= tolerance(&a), "{alone} {theirs}");
            }
        }

        #[test]
        fn truncation_error_is_the_tail(a in matrices(), part in 0.0..1.0) {
            let full = svd(&a).unwrap();
            let rank = 1 + (part * (full.s.len() - 1) as f64) as usize;
            let error = full.truncated(rank).unwrap().reconstruct().unwrap().sub(&a).unwrap();
            let tail = Matrix::from_vec(1, full.s.len() - rank, full.s[rank..].to_vec()).unwrap();
            let difference = error.frobenius_norm() - tail.frobenius_norm();
            prop_assert!(difference.abs() <= tolerance(&a) * (a.rows() as f64).sqrt());
        }

        #[test]
        fn energy_and_rank_agree(a in matrices(), fraction in 0.0..=1.0) {
            let svd = svd(&a).unwrap();
            let rank = svd.rank_for_energy(fraction).unwrap();
            prop_assert!(svd.energy(rank).unwrap() >= fraction);
            prop_assert!(rank == 0 || svd.energy(rank - 1).unwrap() < fraction);
            prop_assert_eq!(svd.energy(svd.s.len()).unwrap(), 1.0);
        }
    }

    #[test]
    fn shapes_beyond_the_blocks() {
        for (m, n) in [(300, 290), (400, 60), (1, 500), (500, 1)] {
            check(&seeded(m, n, 5));
            check(&ill_conditioned(m, n, 6));
        }
        check(&Matrix::zeros(3, 4));
    }

    #[test]
    fn extreme_scales_change_nothing() {
        let a = seeded(12, 9, 8);
        for exponent in [-1000, -700, -500, 500, 700, 1000] {
            let scale = 2f64.powi(exponent);
            let expected = svd(&a).unwrap();
            let found = svd(&a.scale(scale)).unwrap();
            assert_eq!((found.u, found.vt), (expected.u, expected.vt));
            assert!(
                found
                    .s
                    .iter()
                    .zip(&expected.s)
                    .all(|(x, y)| *x == y * scale)
            );
        }
        check(&Matrix::from_fn(3, 3, |i, j| {
            10f64.powi(-150 * (i + j) as i32)
        }));
        assert!(svd(&Matrix::from_fn(2, 2, |_, _| 5e-324)).unwrap().s[0] > 0.0);
    }

    #[test]
    fn thread_count_does_not_matter() {
        // Just large enough to run in parallel.
        let a = seeded(1040, 1020, 7);
        let with_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| svd(&a).unwrap())
        };
        let one = with_threads(1);
        for threads in [2, 3] {
            assert_eq!(one, with_threads(threads), "{threads} threads");
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        let svd_of_wide = svd(&seeded(3, 5, 1)).unwrap();
        let error = svd_of_wide.truncated(4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "truncated svd: found rank 4, expected 1 to 3"
        );
        assert!(svd_of_wide.truncated(0).is_err());
        assert!(svd_of_wide.energy(4).is_err());
        for fraction in [-0.1, 1.1, f64::NAN] {
            assert!(svd_of_wide.rank_for_energy(fraction).is_err());
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut a = seeded(4, 4, 2);
            a.set(3, 1, bad);
            assert!(matches!(
                svd(&a),
                Err(LinalgError::NonFinite { row: 3, col: 1, .. })
            ));
        }
        assert!(svd(&Matrix::zeros(0, 3)).is_err());
    }
}
