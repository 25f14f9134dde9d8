//! The factors of a Kronecker product and how a width is split between them.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// A small matrix: A itself, or the product A B of rank r.
///
/// # Shapes
/// - alone: A [rows, cols]
/// - as a product: A [rows, r], B [r, cols]
#[derive(Module, Debug)]
pub struct Factor {
    /// A.
    pub a: Param<Tensor<2>>,
    /// B; without it, A is the whole factor.
    pub b: Option<Param<Tensor<2>>>,
}

impl Factor {
    /// A factor from its one or two matrices.
    pub fn new(a: Tensor<2>, b: Option<Tensor<2>>) -> Self {
        Self {
            a: Param::from_tensor(a),
            b: b.map(Param::from_tensor),
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.a.dims()[0]
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.b.as_ref().unwrap_or(&self.a).dims()[1]
    }

    /// The factor as one matrix, [rows, cols].
    pub fn matrix(&self) -> Tensor<2> {
        self.apply_to(|a| a)
    }

    /// x A, or x A B through the rank: x [n, rows] to [n, cols].
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        self.apply_to(|a| x.matmul(a))
    }

    fn apply_to(&self, left: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let product = left(self.a.val());
        match &self.b {
            Some(b) => product.matmul(b.val()),
            None => product,
        }
    }
}

/// x (A (x) B) without the Kronecker product: x [n, ma * mb] to [n, la * lb], in
/// O(n ma mb lb + n ma lb la), less where a factor has low rank.
pub fn kronecker_apply(x: Tensor<2>, a: &Factor, b: &Factor) -> Tensor<2> {
    let n = x.dims()[0];
    let (ma, mb, la, lb) = (a.rows(), b.rows(), a.cols(), b.cols());
    let inner = b.apply(x.reshape([n * ma, mb])).reshape([n, ma, lb]);
    let outer = a
        .apply(inner.swap_dims(1, 2).reshape([n * lb, ma]))
        .reshape([n, lb, la]);
    outer.swap_dims(1, 2).reshape([n, la * lb])
}

/// A (x) B, [ma * mb, la * lb].
pub fn kronecker(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let ([ma, la], [mb, lb]) = (a.dims(), b.dims());
    (a.reshape([ma, 1, la, 1]) * b.reshape([1, mb, 1, lb])).reshape([ma * mb, la * lb])
}

/// The split (m, n) of a width, m * n = width. A positive `factor` that divides the width is m;
/// otherwise m is the largest divisor up to `factor` and the square root of the width. -1 sets no
/// bound, so that the split is the closest to a square (LyCORIS's rule).
pub fn factorisation(width: usize, factor: i64) -> (usize, usize) {
    let bound = usize::try_from(factor).unwrap_or(width);
    if factor > 0 && width.is_multiple_of(bound) {
        return (bound, width / bound);
    }
    let root = width.isqrt();
    let m = (1..=bound.min(root))
        .rev()
        .find(|&m| width.is_multiple_of(m))
        .unwrap_or(1);
    (m, width / m)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Divisor by divisor, as LyCORIS searches.
    fn searched(width: usize, factor: i64) -> (usize, usize) {
        if factor > 0 && width.is_multiple_of(factor as usize) {
            return (factor as usize, width / factor as usize);
        }
        let bound = if factor == -1 { width } else { factor as usize };
        let (mut m, mut n) = (1, width);
        while m < n {
            let next = (m + 1..).find(|&next| width.is_multiple_of(next)).unwrap();
            if next + width / next > 1 + width || next > bound {
                break;
            }
            (m, n) = (next, width / next);
        }
        (m.min(n), m.max(n))
    }

    #[test]
    fn widths_split_as_in_lycoris() {
        assert_eq!(factorisation(24, -1), (4, 6));
        assert_eq!(factorisation(127, -1), (1, 127));
        assert_eq!(factorisation(128, 4), (4, 32));
        assert_eq!(factorisation(24, 5), (4, 6));
        for width in 1..300 {
            for factor in [-1, 1, 2, 3, 4, 5, 8, 16, 50] {
                assert_eq!(
                    factorisation(width, factor),
                    searched(width, factor),
                    "{width} by {factor}"
                );
            }
        }
    }
}
