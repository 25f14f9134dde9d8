//! Nearest sum of Kronecker products.

use crate::error::{LinalgError, Result, Shape};
use crate::matrix::Matrix;
use crate::svd::{check_rank, svd};

/// Sum of Kronecker products W ~ sum_k s_k A_k (x) B_k.
#[derive(Debug, Clone, PartialEq)]
pub struct KroneckerSvd {
    /// Weights in non-increasing order.
    pub s: Vec<f64>,
    /// Left factors, m1 x n1, orthonormal in the Frobenius inner product.
    pub a: Vec<Matrix>,
    /// Right factors, m2 x n2, orthonormal in the Frobenius inner product.
    pub b: Vec<Matrix>,
}

/// Van Loan rearrangement of W (m1 m2 x n1 n2) into an m1 n1 x m2 n2 matrix whose row i n1 + j is
/// block (i, j) of W (m2 x n2), read row by row.
///
/// It turns A (x) B into the outer product of the entries of A and B (Van Loan and Pitsianis
/// 1993), so that sums of Kronecker products become matrices of low rank.
///
/// Errors: a shape of W that is not the product of the factor shapes.
pub fn rearrange(w: &Matrix, a_shape: Shape, b_shape: Shape) -> Result<Matrix> {
    let ((m1, n1), (m2, n2)) = (a_shape, b_shape);
    check_shape(
        w,
        (m1.checked_mul(m2), n1.checked_mul(n2)),
        "kronecker factors",
    )?;
    Ok(Matrix::from_fn(m1 * n1, m2 * n2, |block, entry| {
        w.get(block / n1 * m2 + entry / n2, block % n1 * n2 + entry % n2)
    }))
}

/// Undoes [`rearrange`]: from m1 n1 x m2 n2 back to m1 m2 x n1 n2.
///
/// Errors: a shape that does not belong to the factor shapes.
pub fn restore(rearranged: &Matrix, a_shape: Shape, b_shape: Shape) -> Result<Matrix> {
    let ((m1, n1), (m2, n2)) = (a_shape, b_shape);
    check_shape(
        rearranged,
        (m1.checked_mul(n1), m2.checked_mul(n2)),
        "rearranged factors",
    )?;
    Ok(Matrix::from_fn(m1 * m2, n1 * n2, |i, j| {
        rearranged.get(i / m2 * n1 + j / n2, i % m2 * n2 + j % n2)
    }))
}

/// The sum of `rank` Kronecker products nearest to W (m1 m2 x n1 n2) in the Frobenius norm, for
/// factors A_k (m1 x n1) and B_k (m2 x n2): the singular value decomposition of the
/// [`rearrange`]d matrix. Signs as in [`svd()`]: the largest entry of each A_k is positive.
///
/// Errors: factor shapes that do not divide W, a rank outside 1 to min(m1 n1, m2 n2), an empty
/// matrix, NaN or infinite entries.
pub fn kronecker_svd(
    w: &Matrix,
    a_shape: Shape,
    b_shape: Shape,
    rank: usize,
) -> Result<KroneckerSvd> {
    let rearranged = rearrange(w, a_shape, b_shape)?;
    check_rank(
        "kronecker svd",
        rank,
        1,
        rearranged.rows().min(rearranged.cols()),
    )?;
    let svd = svd(&rearranged)?.truncated(rank)?;
    let factors = |vectors: &Matrix, (rows, cols): Shape| {
        (0..rank)
            .map(|k| Matrix::from_vec(rows, cols, vectors.row(k).to_vec()))
            .collect::<Result<Vec<_>>>()
    };
    Ok(KroneckerSvd {
        a: factors(&svd.u.transpose(), a_shape)?,
        b: factors(&svd.vt, b_shape)?,
        s: svd.s,
    })
}

impl KroneckerSvd {
    /// The sum sum_k s_k A_k (x) B_k, m1 m2 x n1 n2.
    pub fn reconstruct(&self) -> Result<Matrix> {
        let mut terms = self
            .s
            .iter()
            .zip(self.a.iter().zip(&self.b))
            .map(|(&s, (a, b))| a.scale(s).kron(b));
        let first = terms.next().unwrap_or_else(|| Matrix::zeros(0, 0));
        terms.try_fold(first, |sum, term| sum.add(&term))
    }
}

fn check_shape(
    matrix: &Matrix,
    expected: (Option<usize>, Option<usize>),
    operation: &'static str,
) -> Result<()> {
    if (Some(matrix.rows()), Some(matrix.cols())) == expected {
        return Ok(());
    }
    let side = |n: Option<usize>| n.map_or_else(|| "overflow".to_owned(), |n| n.to_string());
    Err(LinalgError::Index {
        operation,
        found: format!("a matrix of shape {}x{}", matrix.rows(), matrix.cols()),
        expected: format!(
            "{}x{}, what the factor shapes give",
            side(expected.0),
            side(expected.1)
        ),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{seeded, tolerance, unit_tolerance};

    fn shapes() -> impl Strategy<Value = (Shape, Shape, u64)> {
        ((1usize..5, 1usize..5), (1usize..5, 1usize..5), any::<u64>())
    }

    proptest! {
        #[test]
        fn rearrangement_makes_kronecker_products_outer((a_shape, b_shape, seed) in shapes()) {
            let a = seeded(a_shape.0, a_shape.1, seed);
            let b = seeded(b_shape.0, b_shape.1, seed ^ 1);
            let rearranged = rearrange(&a.kron(&b), a_shape, b_shape).unwrap();
            let outer = Matrix::from_fn(rearranged.rows(), rearranged.cols(), |i, j| {
                a.as_slice()[i] * b.as_slice()[j]
            });
            prop_assert_eq!(&rearranged, &outer);
            prop_assert_eq!(restore(&rearranged, a_shape, b_shape).unwrap(), a.kron(&b));
        }

        #[test]
        fn full_rank_reconstructs_and_the_tail_is_the_error(
            (a_shape, b_shape, seed) in shapes(), part in 0.0..1.0,
        ) {
            let w = seeded(a_shape.0 * b_shape.0, a_shape.1 * b_shape.1, seed);
            let max = (a_shape.0 * a_shape.1).min(b_shape.0 * b_shape.1);
            let full = kronecker_svd(&w, a_shape, b_shape, max).unwrap();
            let bound = 16.0 * tolerance(&w);
            prop_assert!(full.reconstruct().unwrap().max_abs_diff(&w).unwrap() <= bound);

            let rank = 1 + (part * (max - 1) as f64) as usize;
            let part = kronecker_svd(&w, a_shape, b_shape, rank).unwrap();
            let error = part.reconstruct().unwrap().sub(&w).unwrap().frobenius_norm();
            let tail = full.s[rank..].iter().map(|s| s * s).sum::<f64>().sqrt();
            prop_assert!((error - tail).abs() <= bound);
            for factor in part.a.iter().chain(&part.b) {
                prop_assert!((factor.frobenius_norm() - 1.0).abs() <= 16.0 * unit_tolerance(&w));
            }
        }

        #[test]
        fn one_product_is_recovered((a_shape, b_shape, seed) in shapes()) {
            let w = seeded(a_shape.0, a_shape.1, seed).kron(&seeded(b_shape.0, b_shape.1, seed ^ 1));
            let found = kronecker_svd(&w, a_shape, b_shape, 1).unwrap();
            prop_assert!(found.reconstruct().unwrap().max_abs_diff(&w).unwrap() <= 16.0 * tolerance(&w));
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        let w = seeded(4, 6, 0);
        let error = rearrange(&w, (2, 2), (2, 2)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("found a matrix of shape 4x6, expected 4x4")
        );
        assert!(rearrange(&w, (usize::MAX, 2), (2, 3)).is_err());
        let error = kronecker_svd(&w, (2, 2), (2, 3), 5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "kronecker svd: found rank 5, expected 1 to 4"
        );
        assert!(kronecker_svd(&w.scale(f64::NAN), (2, 2), (2, 3), 1).is_err());
        assert!(restore(&w, (2, 2), (2, 2)).is_err());
    }
}
