//! A matrix times one plus a product of low rank, entry by entry.

use crate::matmul::{Mat, Onto, matmul};
use crate::parallel::{chunks_mut, for_each, reduce, rows_per_partial, rows_per_task};
use crate::product::strip_rows;
use crate::{Real, expect_len};

/// `W . (1 + A B)` with `A` of `[rows, rank]` and `B` of `[rank, columns]`, the weight of HiRA
/// (Huang et al., ICLR 2025, OpenReview TwJrTz9cRS, equation 3).
#[derive(Debug, Clone, Copy)]
pub struct Modulation<'a, T> {
    /// `A`, `[rows, rank]`.
    pub a: &'a [T],
    /// `B`, `[rank, columns]`.
    pub b: &'a [T],
    /// `rows`, `rank`, `columns`.
    pub shape: [usize; 3],
}

impl<T: Real> Modulation<'_, T> {
    /// `out = W . (1 + A B)`: `rows columns (rank + 1)` multiply-adds, one pass over `W`.
    ///
    /// It is linear in `W` and its own adjoint there: on the gradient of the result it gives that
    /// of `W`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shape.
    pub fn apply(&self, w: &[T], out: &mut [T]) {
        let [rows, rank, columns] = self.check(w);
        expect_len("out", out, w.len());
        if w.is_empty() {
            return;
        }
        let strip = rows_per_task(rows, columns * (rank + 4)).min(strip_rows::<T>(columns));
        let strips = w
            .chunks(strip * columns)
            .zip(out.chunks_mut(strip * columns));
        for_each(strips.enumerate(), |(i, (w, out))| {
            let count = w.len() / columns;
            matmul(
                (&mut *out, columns),
                Onto::Nothing,
                self.rows(i * strip, count),
                self.b(),
                T::ONE,
            );
            multiply_by_one_plus(w, out);
        });
    }

    /// `(gA, gB)` from the gradient `G` of the result: with `H = G . W`, `gA = H B^T` and
    /// `gB = A^T H`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shape.
    pub fn backward(&self, w: &[T], g: &[T]) -> (Vec<T>, Vec<T>) {
        let [rows, rank, columns] = self.check(w);
        expect_len("g", g, w.len());
        let (mut ga, b_len) = (vec![T::ZERO; rows * rank], rank * columns);
        if w.is_empty() || rank == 0 {
            return (ga, vec![T::ZERO; b_len]);
        }
        let task = rows_per_partial(rows, columns * (2 * rank + 4));
        let strip = strip_rows::<T>(columns);
        // Turned once, not for every strip.
        let turned: Vec<T> = (0..b_len)
            .map(|at| self.b[at % rank * columns + at / rank])
            .collect();
        let outputs = chunks_mut(&mut ga, task * rank);
        let gb = reduce(rows, task, b_len, outputs, |range, gb, ga| {
            let mut h = vec![T::ZERO; strip.min(range.len()) * columns];
            for (i, ga) in ga.chunks_mut(strip * rank).enumerate() {
                let (start, count) = (range.start + i * strip, ga.len() / rank);
                let span = start * columns..(start + count) * columns;
                let h = &mut h[..count * columns];
                multiply(&w[span.clone()], &g[span], h);
                let h = Mat::new(&*h, count, columns);
                let b = Mat::new(&turned, columns, rank);
                matmul((ga, rank), Onto::Nothing, h, b, T::ONE);
                matmul(
                    (&mut *gb, columns),
                    Onto::Present,
                    self.rows(start, count).t(),
                    h,
                    T::ONE,
                );
            }
        });
        (ga, gb)
    }

    fn rows(&self, start: usize, count: usize) -> Mat<'_, T> {
        let rank = self.shape[1];
        Mat::new(&self.a[start * rank..(start + count) * rank], count, rank)
    }

    fn b(&self) -> Mat<'_, T> {
        Mat::new(self.b, self.shape[1], self.shape[2])
    }

    #[track_caller]
    fn check(&self, w: &[T]) -> [usize; 3] {
        let [rows, rank, columns] = self.shape;
        expect_len("a", self.a, rows * rank);
        expect_len("b", self.b, rank * columns);
        expect_len("w", w, rows * columns);
        self.shape
    }
}

simd! {
    fn multiply_by_one_plus<T, const FUSED: bool>(w: &[T], out: &mut [T]) {
        for (out, &w) in out.iter_mut().zip(w) {
            *out = out.mul_add::<FUSED>(w, w);
        }
    }
}

simd! {
    fn multiply<T, const FUSED: bool>(w: &[T], g: &[T], out: &mut [T]) {
        for (out, (&w, &g)) in out.iter_mut().zip(w.iter().zip(g)) {
            *out = w * g;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(rows in 0usize..40, rank in 1usize..6, columns in 1usize..40, seed: u64) {
            let [w, g] = [1, 2].map(|k| narrow(&noise(rows * columns, seed ^ k)));
            let (a, b) = (narrow(&noise(rows * rank, seed ^ 3)), narrow(&noise(rank * columns, seed ^ 4)));
            let shape = [rows, rank, columns];
            let mut out = w.clone();
            Modulation { a: &a, b: &b, shape }.apply(&w, &mut out);
            let (ga, gb) = Modulation { a: &a, b: &b, shape }.backward(&w, &g);

            let [w, g, a, b] = [w, g, a, b].map(|v| widen(&v));
            let (mut y, mut expected_a, mut expected_b) = (w.clone(), vec![0.0; a.len()], vec![0.0; b.len()]);
            for i in 0..rows {
                for j in 0..columns {
                    let at = i * columns + j;
                    for k in 0..rank {
                        y[at] += w[at] * a[i * rank + k] * b[k * columns + j];
                        expected_a[i * rank + k] += g[at] * w[at] * b[k * columns + j];
                        expected_b[k * columns + j] += g[at] * w[at] * a[i * rank + k];
                    }
                }
            }
            let tolerance = |terms: usize| move |_| 2f64.powi(-22) * (terms + 2) as f64;
            assert_close(&out, &y, tolerance(rank));
            assert_close(&ga, &expected_a, tolerance(columns));
            assert_close(&gb, &expected_b, tolerance(rows));
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let [w, g] = [1, 2].map(|k| narrow(&noise(501 * 703, k)));
        let (a, b) = (&w[..501 * 9], &w[..9 * 703]);
        let modulation = Modulation {
            a,
            b,
            shape: [501, 9, 703],
        };
        assert_thread_independent(|| {
            let mut out = w.clone();
            modulation.apply(&w, &mut out);
            let (ga, gb) = modulation.backward(&w, &g);
            [out, ga, gb].concat()
        });
    }
}
