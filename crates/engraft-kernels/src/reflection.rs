//! Block-diagonal updates of rank one, the form of hyperplane reflections.

use crate::fold::sum2;
use crate::parallel::{chunks_mut, for_each, reduce, rows_per_partial, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// Work of one number of a row, in the unit of [`rows_per_task`].
const COST: usize = 8;

/// `H = diag(H_1, ..., H_n)` with blocks `H_k = I + sum_i w_i u_ik u_ik^T` of side `b`.
///
/// One weight of -2 and unit vectors make reflections, weights of -1 and 1 relaxed ones (Bini et
/// al., arXiv 2405.20271, section 3). Vectors are `[weights, n, b]`. `H` is symmetric. One pass over
/// the rows, `4 d` operations a row and weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankOneBlocks<'a> {
    /// Number of blocks `n`.
    pub blocks: usize,
    /// Side `b`.
    pub size: usize,
    /// `w`.
    pub weights: &'a [f64],
}

impl RankOneBlocks<'_> {
    /// Side of `H`.
    pub fn width(self) -> usize {
        self.blocks * self.size
    }

    /// `y = x H`, with `x` and `y` of `[rows, n b]`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn apply<T: Real>(self, x: &[T], u: &[T], y: &mut [T]) {
        let rows = expect_rows("x", x, self.width());
        expect_len("u", u, self.weights.len() * self.width());
        expect_len("y", y, x.len());
        let chunk = rows_per_task(rows, self.cost()) * self.width();
        for_each(x.chunks(chunk).zip(y.chunks_mut(chunk)), |(x, y)| {
            forward(self, x, u, y)
        });
    }

    /// Writes the gradient of `x`, `gx = gy H`, and returns that of the vectors,
    /// `w_i sum_rows (gy u_i) x + (x u_i) gy`.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward<T: Real>(self, x: &[T], u: &[T], gy: &[T], gx: &mut [T]) -> Vec<T> {
        let rows = expect_rows("x", x, self.width());
        expect_len("u", u, self.weights.len() * self.width());
        expect_len("gy", gy, x.len());
        expect_len("gx", gx, x.len());
        let task = rows_per_partial(rows, 3 * self.cost());
        let outputs = chunks_mut(gx, task * self.width());
        reduce(rows, task, u.len(), outputs, |range, sum, gx| {
            let span = range.start * self.width()..range.end * self.width();
            backward(self, &x[span.clone()], u, &gy[span], gx, sum);
        })
    }

    fn cost(self) -> usize {
        self.weights.len() * self.width() * COST
    }
}

simd! {
    fn forward<T, const FUSED: bool>(shape: RankOneBlocks<'_>, x: &[T], u: &[T], y: &mut [T]) {
        let (width, b) = (shape.width(), shape.size);
        y.copy_from_slice(x);
        for (&weight, u) in shape.weights.iter().zip(u.chunks_exact(width)) {
            let weight = T::from_f64(weight);
            let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
            for (x, y) in rows {
                let blocks = x.chunks_exact(b).zip(y.chunks_exact_mut(b));
                for ((x, y), u) in blocks.zip(u.chunks_exact(b)) {
                    let along = weight * sum2(x, u, |sum, x, u| x.mul_add::<FUSED>(u, sum));
                    for (y, &u) in y.iter_mut().zip(u) {
                        *y = along.mul_add::<FUSED>(u, *y);
                    }
                }
            }
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(
        shape: RankOneBlocks<'_>, x: &[T], u: &[T], gy: &[T], gx: &mut [T], sum: &mut [T],
    ) {
        let (width, b) = (shape.width(), shape.size);
        gx.copy_from_slice(gy);
        let vectors = u.chunks_exact(width).zip(sum.chunks_exact_mut(width));
        for (&weight, (u, sum)) in shape.weights.iter().zip(vectors) {
            let weight = T::from_f64(weight);
            let rows = x.chunks_exact(width).zip(gy.chunks_exact(width));
            for ((x, gy), gx) in rows.zip(gx.chunks_exact_mut(width)) {
                for (k, u) in u.chunks_exact(b).enumerate() {
                    let span = k * b..(k + 1) * b;
                    let (x, gy) = (&x[span.clone()], &gy[span.clone()]);
                    let (gx, sum) = (&mut gx[span.clone()], &mut sum[span]);
                    let dot = |v: &[T]| weight * sum2(v, u, |sum, v, u| v.mul_add::<FUSED>(u, sum));
                    let (px, pg) = (dot(x), dot(gy));
                    for j in 0..b {
                        gx[j] = pg.mul_add::<FUSED>(u[j], gx[j]);
                        sum[j] = pg.mul_add::<FUSED>(x[j], px.mul_add::<FUSED>(gy[j], sum[j]));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, slope};
    use proptest::prelude::*;

    fn applied<T: Real>(shape: RankOneBlocks<'_>, x: &[T], u: &[T]) -> Vec<T> {
        let mut y = vec![T::ZERO; x.len()];
        shape.apply(x, u, &mut y);
        y
    }

    proptest! {
        #[test]
        fn agrees_with_loops_and_slopes(rows in 0usize..9, blocks in 1usize..5, size in 1usize..40, relaxed: bool, seed: u64) {
            let weights: &[f64] = if relaxed { &[-1.0, 1.0] } else { &[-2.0] };
            let shape = RankOneBlocks { blocks, size, weights };
            let width = shape.width();
            let u = noise(weights.len() * width, seed);
            let (x, gy) = (noise(rows * width, seed ^ 1), noise(rows * width, seed ^ 2));
            let mut expected = x.clone();
            for (row, y) in x.chunks_exact(width).zip(expected.chunks_exact_mut(width)) {
                for (i, weight) in weights.iter().enumerate() {
                    for k in 0..blocks {
                        let span = k * size..(k + 1) * size;
                        let u = &u[i * width..][span.clone()];
                        let along: f64 = row[span.clone()].iter().zip(u).map(|(x, u)| x * u).sum();
                        y[span].iter_mut().zip(u).for_each(|(y, u)| *y += weight * along * u);
                    }
                }
            }
            assert_close(&applied(shape, &x, &u), &expected, |_| 1e-14 * size as f64);
            assert_close(&applied(shape, &narrow(&x), &narrow(&u)), &expected, |_| 1e-6 * size as f64);
            let mut gx = vec![0.0; x.len()];
            let gu = shape.backward(&x, &u, &gy, &mut gx);
            assert_close(&gx, &slope(&x, &gy, |x| applied(shape, x, &u)), |_| 1e-7 * size as f64);
            assert_close(&gu, &slope(&u, &gy, |u| applied(shape, &x, u)), |_| 1e-7 * (size * (rows + 1)) as f64);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let shape = RankOneBlocks {
            blocks: 5,
            size: 13,
            weights: &[-1.0, 1.0],
        };
        let [x, gy] = [1, 2].map(|seed| narrow(&noise(5003 * 65, seed)));
        let u = narrow(&noise(130, 3));
        assert_thread_independent(|| {
            let mut gx = vec![0.0; x.len()];
            let gu = shape.backward(&x, &u, &gy, &mut gx);
            [applied(shape, &x, &u), gx, gu].concat()
        });
    }
}
