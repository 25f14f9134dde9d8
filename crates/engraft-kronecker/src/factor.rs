//! The factors of a Kronecker product and how a width is split between them.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_tensor::ops::matmul;

/// A small matrix: A itself, the product A B of rank r, or for a convolution of kernel kh x kw the
/// product with a core, M((c, k, l), o) = sum_ij A(c, j) T(i, j, k, l) B(i, o).
///
/// # Shapes
/// - alone: A [rows, cols]
/// - as a product: A [rows, r], B [r, cols]
/// - with a core: A [channels, r], T [r, r, kh, kw], B [r, cols]; rows = channels * kh * kw
#[derive(Module, Debug)]
pub struct Factor {
    /// A.
    pub a: Param<Tensor<2>>,
    /// B; without it, A is the whole factor.
    pub b: Option<Param<Tensor<2>>>,
    /// T.
    pub t: Option<Param<Tensor<4>>>,
}

impl Factor {
    /// A factor from its one or two matrices.
    pub fn new(a: Tensor<2>, b: Option<Tensor<2>>) -> Self {
        Self {
            a: Param::from_tensor(a),
            b: b.map(Param::from_tensor),
            t: None,
        }
    }

    /// The factor with a core between its two matrices.
    pub fn with_core(self, t: Tensor<4>) -> Self {
        Self {
            t: Some(Param::from_tensor(t)),
            ..self
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        let pixels = self
            .t
            .as_ref()
            .map_or(1, |t| t.dims()[2..].iter().product());
        self.a.dims()[0] * pixels
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.b.as_ref().unwrap_or(&self.a).dims()[1]
    }

    /// The factor as one matrix, [rows, cols].
    pub fn matrix(&self) -> Tensor<2> {
        match &self.b {
            Some(b) => matmul(self.left(), b.val()),
            None => self.left(),
        }
    }

    /// A, or A T as [rows, r].
    fn left(&self) -> Tensor<2> {
        let a = self.a.val();
        let Some(t) = &self.t else { return a };
        let (channels, [i, j, rows, columns]) = (a.dims()[0], t.dims());
        let core = t.val().permute([1, 2, 3, 0]);
        a.matmul(core.reshape([j, rows * columns * i]))
            .reshape([channels * rows * columns, i])
    }
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
