//! Products with a block-diagonal matrix, the activation form of OFT and BOFT.

use crate::parallel::{for_each, reduce, rows_per_partial, rows_per_task};
use crate::product::{Extent, Strided, multiply_add, transpose};
use crate::{Real, expect_len, expect_rows};

/// `diag(R_1, ..., R_n)` of `n` square blocks of side `b`; arrays hold `[n, b, b]`.
///
/// No `d x d` matrix is formed (`d = n b`): a product costs `tokens d b` multiply-adds
/// (Qiu et al., arXiv 2306.07280, section 3.3). The blocks need not be orthogonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDiagonal {
    /// Number of blocks `n`.
    pub blocks: usize,
    /// Side `b` of a block.
    pub size: usize,
}

/// Rows that pass through one block after another while they stay in the second cache.
const ROWS: usize = 48;

impl BlockDiagonal {
    /// Side of the whole matrix, `d = n b`.
    pub fn width(self) -> usize {
        self.blocks * self.size
    }

    /// `y = x diag(R)`, with `x` and `y` of `[tokens, d]`: `y[t, k b + j] = sum_i x[t, k b + i] R_k[i, j]`.
    ///
    /// # Panics
    ///
    /// Unless `r` has `n b b` numbers and `x` and `y` have one length, a multiple of `d`.
    pub fn apply<T: Real>(self, x: &[T], r: &[T], y: &mut [T]) {
        let tokens = expect_rows("x", x, self.width());
        expect_len("r", r, self.width() * self.size);
        expect_len("y", y, x.len());
        let chunk = rows_per_task(tokens, self.width() * self.size) * self.width();
        for_each(x.chunks(chunk).zip(y.chunks_mut(chunk)), |(x, y)| {
            forward(self, x, r, y)
        });
    }

    /// Gradient of the input: `gx = gy diag(R)^T`.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward_input<T: Real>(self, gy: &[T], r: &[T], gx: &mut [T]) {
        expect_len("r", r, self.width() * self.size);
        let blocks = r.chunks_exact((self.size * self.size).max(1));
        let transposed: Vec<T> = blocks
            .flat_map(|block| transpose(block, self.size))
            .collect();
        self.apply(gy, &transposed, gx);
    }

    /// Gradient of the blocks, `[n, b, b]`: `gR_k[i, j] = sum_t x[t, k b + i] gy[t, k b + j]`.
    ///
    /// # Panics
    ///
    /// Unless `x` and `gy` have one length, a multiple of `d`.
    pub fn backward_blocks<T: Real>(self, x: &[T], gy: &[T]) -> Vec<T> {
        let width = self.width();
        let tokens = expect_rows("x", x, width);
        expect_len("gy", gy, x.len());
        let task = rows_per_partial(tokens, width * self.size);
        let outputs = vec![(); tokens.div_ceil(task).max(1)];
        reduce(
            tokens,
            task,
            width * self.size,
            outputs.into_iter(),
            |range, sum, ()| {
                let span = range.start * width..range.end * width;
                outer(self, &x[span.clone()], &gy[span], sum);
            },
        )
    }
}

simd! {
    fn forward<T, const FUSED: bool>(shape: BlockDiagonal, x: &[T], r: &[T], y: &mut [T]) {
        let (width, b) = (shape.width(), shape.size);
        for (x, y) in x.chunks(ROWS * width).zip(y.chunks_mut(ROWS * width)) {
            y.fill(T::ZERO);
            let extent = Extent { m: x.len() / width, k: b, n: b };
            for (k, r) in r.chunks_exact(b * b).enumerate() {
                let x = Strided { data: &x[k * b..], row: width, column: 1 };
                multiply_add::<T, FUSED>(extent, x, (r, b), (&mut y[k * b..], width));
            }
        }
    }
}

simd! {
    fn outer<T, const FUSED: bool>(shape: BlockDiagonal, x: &[T], gy: &[T], sum: &mut [T]) {
        let (width, b) = (shape.width(), shape.size);
        for (x, gy) in x.chunks(ROWS * width).zip(gy.chunks(ROWS * width)) {
            let extent = Extent { m: b, k: x.len() / width, n: b };
            for (k, sum) in sum.chunks_exact_mut(b * b).enumerate() {
                let x = Strided { data: &x[k * b..], row: 1, column: width };
                multiply_add::<T, FUSED>(extent, x, (&gy[k * b..], width), (sum, b));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    /// The three products by loops over `(t, k, i, j)`: `(y, gx, g_blocks)`.
    fn reference(s: BlockDiagonal, x: &[f64], r: &[f64], gy: &[f64]) -> [Vec<f64>; 3] {
        let (d, b) = (s.width(), s.size);
        let (mut y, mut gx, mut gr) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; r.len()]);
        for t in 0..x.len() / d {
            for k in 0..s.blocks {
                for i in 0..b {
                    for j in 0..b {
                        let (row, column, e) =
                            (t * d + k * b + i, t * d + k * b + j, (k * b + i) * b + j);
                        y[column] += x[row] * r[e];
                        gx[row] += gy[column] * r[e];
                        gr[e] += x[row] * gy[column];
                    }
                }
            }
        }
        [y, gx, gr]
    }

    fn products<T: Real>(s: BlockDiagonal, x: &[T], r: &[T], gy: &[T]) -> [Vec<T>; 3] {
        let (mut y, mut gx) = (vec![T::ZERO; x.len()], vec![T::ZERO; x.len()]);
        s.apply(x, r, &mut y);
        s.backward_input(gy, r, &mut gx);
        [y, gx, s.backward_blocks(x, gy)]
    }

    proptest! {
        #[test]
        fn agrees_with_loops_in_f64(tokens in 0usize..60, blocks in 1usize..6, size in 1usize..20, seed: u64) {
            let shape = BlockDiagonal { blocks, size };
            let len = tokens * shape.width();
            let (x, gy) = (narrow(&noise(len, seed)), narrow(&noise(len, !seed)));
            let r = narrow(&noise(shape.width() * size, seed ^ 7));
            let expected = reference(shape, &widen(&x), &widen(&r), &widen(&gy));
            for (found, expected) in products(shape, &x, &r, &gy).iter().zip(&expected) {
                assert_close(found, expected, |_| 2f64.powi(-24) * 2.0 * (size.max(tokens) + 1) as f64);
            }
            let found = products(shape, &widen(&x), &widen(&r), &widen(&gy));
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(found, expected, |_| 1e-14 * (size.max(tokens) + 1) as f64);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let shape = BlockDiagonal {
            blocks: 13,
            size: 9,
        };
        let len = 2003 * shape.width();
        let (x, gy, r) = (
            narrow(&noise(len, 1)),
            narrow(&noise(len, 2)),
            narrow(&noise(117 * 9, 3)),
        );
        assert_thread_independent(|| products(shape, &x, &r, &gy).concat());
    }

    #[test]
    fn nan_stays_in_its_row_and_block() {
        let shape = BlockDiagonal { blocks: 2, size: 2 };
        let x = [1.0f32, f32::NAN, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let mut y = [0.0; 8];
        shape.apply(&x, &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], &mut y);
        assert!(y[1].is_nan());
        assert_eq!(y[2..], [4.0, 3.0, 5.0, 6.0, 8.0, 7.0]);
    }

    #[test]
    #[should_panic(expected = "r: found 3 numbers, expected 8")]
    fn lengths_are_checked() {
        BlockDiagonal { blocks: 2, size: 2 }.apply(&[0.0f32; 4], &[0.0; 3], &mut [0.0; 4]);
    }
}
