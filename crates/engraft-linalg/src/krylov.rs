//! The leading singular triples of a large matrix, exact to rounding.

use rand::Rng;

use crate::error::Result;
use crate::matrix::Matrix;
use crate::operator::{Operator, check_product};
use crate::orthonormal::thin_qr;
use crate::qr::Qr;
use crate::randomized::gaussian;
use crate::svd::{Svd, check_rank, svd};
use crate::view::MatrixView;

/// Vectors of a block. More make better use of a pass over the matrix, fewer need a smaller space.
const BLOCK: usize = 8;

/// Smaller side from which the iteration is worth its while.
const SMALLEST_SIDE: usize = 256;

/// Part of the smaller side, as 1 / this, up to which the rank may reach.
const RANK_PART: usize = 6;

/// Part of a column that must survive the projection for its rest to be orthogonal to rounding.
const SURVIVING: f64 = 0.5;

/// The `rank` largest singular triples of A (m x n) to the rounding of its own products, at the
/// cost of a few hundred products with a vector where a full decomposition takes O(m n min(m, n)).
///
/// Block Golub-Kahan bidiagonalisation with full reorthogonalisation (Golub, Luk and Overton 1981;
/// Golub and Van Loan 2013, section 10.4.4): orthonormal bases with A V = U B and
/// A^T U = V B^T + V' L E^T, of which B = X S Y^T gives the triples (U x, s, V y), each with the
/// residual |A^T u - s v| = |L E^T x|. It ends when no residual exceeds the rounding error times
/// the largest singular value. As a start in eight random directions cannot see more than eight copies of
/// a repeated singular value, the rest A - U S V^T is then searched for a larger one. Where that
/// finds one, where the space grows beyond half the smaller side, and for small matrices and large
/// ranks, all of A is decomposed by [`svd()`]. Signs as there.
///
/// Errors: an inadmissible rank, NaN or infinite entries, no convergence.
pub fn leading_svd(
    a: &(impl Operator + ?Sized),
    rank: usize,
    rng: &mut (impl Rng + ?Sized),
) -> Result<Svd> {
    let (m, n) = a.shape();
    let side = m.min(n);
    check_rank("leading svd", rank, 1, side)?;
    if side >= SMALLEST_SIDE && rank <= side / RANK_PART {
        // The small decompositions within have rounding errors of their own.
        let tolerance = a.epsilon().max(64.0 * f64::EPSILON);
        if let Some(found) = bidiagonalise(a, rank, tolerance, rng)? {
            let rest = Deflated {
                a,
                found: &found,
                vt: found.vt.transpose(),
            };
            let next = bidiagonalise(&rest, 1, 1e-3, rng)?;
            let bound = found.s[rank - 1] + 2.0 * tolerance * found.s[0];
            if next.is_some_and(|next| next.s[0] <= bound) {
                return Ok(found.with_fixed_signs());
            }
        }
    }
    svd(&a.to_matrix())?.truncated(rank)
}

/// The iteration; None if the space it needs is too large.
fn bidiagonalise(
    a: &(impl Operator + ?Sized),
    rank: usize,
    tolerance: f64,
    rng: &mut (impl Rng + ?Sized),
) -> Result<Option<Svd>> {
    let (m, n) = a.shape();
    let most = m.min(n) / 2;
    let (mut left, mut right) = (Basis::new(m), Basis::new(n));
    // Blocks of B: R on the diagonal, L^T beside it.
    let (mut diagonal, mut beside): (Vec<Matrix>, Vec<Matrix>) = Default::default();
    let mut v = thin_qr(&gaussian(n, BLOCK, rng))?.q;
    let mut check = (2 * rank).max(4 * BLOCK);
    loop {
        right.push(&v);
        let mut image = a.times(&v);
        if left.len() == 0 {
            check_product("leading svd", a, &image)?;
        }
        if let Some(coupling) = beside.last() {
            image = image.sub(&left.last_block()?.matmul(coupling)?)?;
        }
        let Qr { q: u, r } = left.extend(image)?;
        let image = a.transpose_times(&u).sub(&v.matmul(&r.transpose())?)?;
        let next = right.extend(image)?;
        left.push(&u);
        diagonal.push(r);
        beside.push(next.r.transpose());
        v = next.q;
        let size = left.len();
        if size >= check {
            let small = svd(&assemble(&diagonal, &beside))?;
            let ends = Matrix::from_fn(BLOCK, rank, |i, k| small.u.get(size - BLOCK + i, k));
            let residuals = next.r.matmul(&ends)?;
            let norm = |k: usize| (0..BLOCK).map(|i| residuals.get(i, k).powi(2)).sum::<f64>();
            if (0..rank).all(|k| norm(k).sqrt() <= tolerance * small.s[0]) {
                let small = small.truncated(rank)?;
                return Ok(Some(Svd {
                    u: left.combine(&small.u),
                    vt: right.combine(&small.vt.transpose()).transpose(),
                    s: small.s,
                }));
            }
            check = size + (size / 5).max(BLOCK);
        }
        if size + 2 * BLOCK > most {
            return Ok(None);
        }
    }
}

/// B, block upper bidiagonal.
fn assemble(diagonal: &[Matrix], beside: &[Matrix]) -> Matrix {
    let size = diagonal.len() * BLOCK;
    let mut b = Matrix::zeros(size, size);
    for (j, (on, next)) in diagonal.iter().zip(beside).enumerate() {
        for i in 0..BLOCK {
            let row = &mut b.row_mut(j * BLOCK + i)[j * BLOCK..];
            row[..BLOCK].copy_from_slice(on.row(i));
            if let Some(place) = row.get_mut(BLOCK..2 * BLOCK) {
                place.copy_from_slice(next.row(i));
            }
        }
    }
    b
}

/// Orthonormal vectors of one length, one a row.
struct Basis {
    vectors: Vec<f64>,
    length: usize,
}

impl Basis {
    fn new(length: usize) -> Self {
        Self {
            vectors: Vec::new(),
            length,
        }
    }

    fn len(&self) -> usize {
        self.vectors.len() / self.length
    }

    fn view(&self) -> MatrixView<'_, f64> {
        MatrixView::new(self.len(), self.length, &self.vectors).expect("whole rows")
    }

    fn push(&mut self, block: &Matrix) {
        self.vectors.extend_from_slice(block.transpose().as_slice());
    }

    fn last_block(&self) -> Result<Matrix> {
        let from = self.vectors.len() - BLOCK * self.length;
        let rows = Matrix::from_vec(BLOCK, self.length, self.vectors[from..].to_vec())?;
        Ok(rows.transpose())
    }

    /// The linear combinations of the vectors with the columns of `weights`.
    fn combine(&self, weights: &Matrix) -> Matrix {
        self.view().transpose_times(weights)
    }

    /// QR decomposition of the part of a block that is orthogonal to the basis. Where nothing is
    /// left of a column, R is zero to rounding and Q has a new direction, so that the iteration
    /// goes on outside an invariant space.
    fn extend(&self, block: Matrix) -> Result<Qr> {
        let k = block.cols();
        let (mut q, mut r) = (block, Matrix::identity(k));
        for _ in 0..4 {
            let before = column_norms(&q);
            if self.len() > 0 {
                q = q.sub(&self.combine(&self.view().times(&q)))?;
            }
            let step = thin_qr(&q)?;
            (q, r) = (step.q, step.r.matmul(&r)?);
            if (0..k).all(|j| step.r.get(j, j) >= SURVIVING * before[j]) {
                break;
            }
        }
        Ok(Qr { q, r })
    }
}

fn column_norms(block: &Matrix) -> Vec<f64> {
    let mut squares = vec![0.0; block.cols()];
    for i in 0..block.rows() {
        let row = block.row(i).iter();
        squares
            .iter_mut()
            .zip(row)
            .for_each(|(sum, x)| *sum += x * x);
    }
    squares.into_iter().map(f64::sqrt).collect()
}

/// (I - U U^T) A (I - V V^T).
struct Deflated<'a, A: ?Sized> {
    a: &'a A,
    found: &'a Svd,
    /// V, n x rank.
    vt: Matrix,
}

fn without(x: &Matrix, basis: &Matrix) -> Matrix {
    let inside = basis.as_view().times(&basis.as_view().transpose_times(x));
    x.sub(&inside).expect("a projection keeps the shape")
}

impl<A: Operator + ?Sized> Operator for Deflated<'_, A> {
    fn shape(&self) -> (usize, usize) {
        self.a.shape()
    }

    fn times(&self, x: &Matrix) -> Matrix {
        without(&self.a.times(&without(x, &self.vt)), &self.found.u)
    }

    fn transpose_times(&self, x: &Matrix) -> Matrix {
        without(
            &self.a.transpose_times(&without(x, &self.found.u)),
            &self.vt,
        )
    }

    fn epsilon(&self) -> f64 {
        self.a.epsilon()
    }

    fn to_matrix(&self) -> Matrix {
        let part = self.found.reconstruct().expect("triples fit each other");
        self.a
            .to_matrix()
            .sub(&part)
            .expect("as large as the whole")
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::testing::{ill_conditioned, orthogonal, orthonormality, seeded};

    /// Values against the full decomposition, orthonormality and residuals.
    fn check(a: &Matrix, rank: usize) {
        let exact = svd(a).unwrap();
        let narrow: Vec<f32> = a.to_f32();
        let single = MatrixView::new(a.rows(), a.cols(), &narrow).unwrap();
        let of =
            |a: &dyn Operator| leading_svd(a, rank, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        // In f32 each product errs by a few roundings of its terms.
        for (found, tolerance) in [(of(a), 4e-13), (of(&single), 2e-6)] {
            let bound = tolerance * exact.s[0];
            for (x, y) in found.s.iter().zip(&exact.s) {
                assert!((x - y).abs() <= bound, "{x} {y}");
            }
            assert!(orthonormality(&found.u) <= 1e-12);
            assert!(orthonormality(&found.vt.transpose()) <= 1e-12);
            let v = found.vt.transpose();
            let right = a.matmul(&v).unwrap();
            let right = right
                .sub(&found.u.scale_columns(&found.s).unwrap())
                .unwrap();
            let left = a.transpose_matmul(&found.u).unwrap();
            let left = left.sub(&v.scale_columns(&found.s).unwrap()).unwrap();
            for residual in [right, left] {
                let most = column_norms(&residual).into_iter().fold(0.0, f64::max);
                assert!(most <= bound, "{most:e} {bound:e}");
            }
        }
    }

    #[test]
    fn triples_are_those_of_the_full_decomposition() {
        check(&seeded(300, 280, 1), 4);
        check(&seeded(270, 500, 2), 16);
        check(&seeded(600, 260, 3), 30);
        check(&ill_conditioned(320, 300, 4), 12);
    }

    #[test]
    fn repeated_values_are_all_found() {
        // More copies than a block has vectors; an orthogonal matrix; one of low rank; zero.
        let with = |s: &dyn Fn(usize) -> f64| {
            let s: Vec<f64> = (0..270).map(s).collect();
            let (u, v) = (orthogonal(270, 5), orthogonal(270, 6));
            u.scale_columns(&s).unwrap().matmul(&v).unwrap()
        };
        check(
            &with(&|i| if i < 12 { 5.0 } else { 3.0 / (1 + i) as f64 }),
            16,
        );
        check(&with(&|i| if i < 3 { 7.0 } else { 6.0 }), 16);
        check(&orthogonal(256, 7), 10);
        check(&with(&|i| if i < 5 { 2.0 } else { 0.0 }), 9);
        check(&Matrix::zeros(256, 300), 3);
        check(&seeded(20, 17, 8).kron(&Matrix::identity(16)), 24);
    }

    #[test]
    fn threads_do_not_matter_and_scale_does_not() {
        // Just large enough to run in parallel.
        let a = seeded(420, 340, 9);
        let of = |a: &Matrix| leading_svd(a, 8, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let pool = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| of(&a))
        };
        let one = pool(1);
        assert_eq!(one, pool(3));
        for exponent in [-300, 300] {
            let scaled = of(&a.scale(2f64.powi(exponent)));
            for (x, y) in scaled.s.iter().zip(&one.s) {
                let y = y * 2f64.powi(exponent);
                assert!((x - y).abs() <= 1e-13 * y);
            }
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        let mut a = seeded(300, 260, 1);
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        assert!(leading_svd(&a, 0, rng).is_err());
        assert!(leading_svd(&a, 261, rng).is_err());
        a.set(7, 9, f64::NAN);
        let error = leading_svd(&a, 3, rng).unwrap_err().to_string();
        assert!(error.contains("(7, 9)"), "{error}");
    }
}
