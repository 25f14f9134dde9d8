//! Scaling of columns, `y = x diag(g) + b`, and the norms that it may come from.

use crate::matmul::{Mat, Onto, matmul};
use crate::parallel::{for_each, reduce, rows_per_partial, rows_per_task};
use crate::product::strip_rows;
use crate::{Real, expect_len, expect_rows};

/// Work of one element, in the unit of [`rows_per_task`].
const COST: usize = 4;

/// `y[t, j] = x[t, j] gain[j] + bias[j]` over `[rows, width]`, `width = gain.len()`.
///
/// # Panics
///
/// Unless `gain` and `bias` have one length, of which the length of `x` and `y` is a multiple.
pub fn scale_columns<T: Real>(x: &[T], gain: &[T], bias: Option<&[T]>, y: &mut [T]) {
    let width = gain.len();
    let rows = expect_rows("x", x, width);
    expect_len("y", y, x.len());
    if let Some(bias) = bias {
        expect_len("bias", bias, width);
    }
    let chunk = rows_per_task(rows, width * COST) * width;
    for_each(x.chunks(chunk).zip(y.chunks_mut(chunk)), |(x, y)| {
        forward(x, gain, bias, y)
    });
}

/// `(g_gain, g_bias)` of [`scale_columns`], and `gx` where it is wanted:
/// `gx = gy diag(gain)`, `g_gain[j] = sum_t gy[t, j] x[t, j]`, `g_bias[j] = sum_t gy[t, j]`.
///
/// # Panics
///
/// Unless the lengths are those of the forward pass.
pub fn scale_columns_backward<T: Real>(
    x: &[T],
    gain: &[T],
    gy: &[T],
    gx: Option<&mut [T]>,
) -> (Vec<T>, Vec<T>) {
    let width = gain.len();
    let rows = expect_rows("x", x, width);
    expect_len("gy", gy, x.len());
    let task = rows_per_partial(rows, width * COST);
    let count = rows.div_ceil(task).max(1);
    let mut chunks: Vec<&mut [T]> = match gx {
        Some(gx) => {
            expect_len("gx", gx, x.len());
            gx.chunks_mut(task * width).collect()
        }
        None => Vec::new(),
    };
    chunks.resize_with(count, Default::default);
    let mut g_gain = reduce(
        rows,
        task,
        2 * width,
        chunks.into_iter(),
        |range, sums, gx| {
            let span = range.start * width..range.end * width;
            backward(&x[span.clone()], gain, &gy[span], gx, sums);
        },
    );
    let g_bias = g_gain.split_off(width);
    (g_gain, g_bias)
}

/// Norms of the columns of `W + s A B`, with `W` of `[rows, width]`, `A` of `[rows, rank]` and `B` of
/// `[rank, width]`: one pass over `W`, of which a strip of rows is changed at a time.
///
/// # Panics
///
/// Unless all lengths are those of the shapes.
pub fn low_rank_column_norms<T: Real>(
    w: &[T],
    a: &[T],
    b: &[T],
    rank: usize,
    s: T,
    norms: &mut [T],
) {
    let width = norms.len();
    let rows = expect_rows("w", w, width);
    expect_len("a", a, rows * rank);
    expect_len("b", b, rank * width);
    let task = rows_per_partial(rows, width * (rank + COST));
    let none = vec![(); rows.div_ceil(task).max(1)];
    // Scaled once: a product with a factor would scale B again for every strip.
    let scaled: Vec<T> = a.iter().map(|&a| a * s).collect();
    let squares = reduce(rows, task, width, none.into_iter(), |range, sums, ()| {
        let strip = strip_rows::<T>(width);
        let mut changed = vec![T::ZERO; strip.min(range.len()) * width];
        for start in range.clone().step_by(strip) {
            let count = strip.min(range.end - start);
            let changed = &mut changed[..count * width];
            changed.copy_from_slice(&w[start * width..(start + count) * width]);
            if rank > 0 {
                let a = &scaled[start * rank..(start + count) * rank];
                let (a, b) = (Mat::new(a, count, rank), Mat::new(b, rank, width));
                matmul((&mut *changed, width), Onto::Present, a, b, T::ONE);
            }
            add_squares(changed, sums);
        }
    });
    for (norm, square) in norms.iter_mut().zip(squares) {
        *norm = square.sqrt();
    }
}

simd! {
    fn forward<T, const FUSED: bool>(x: &[T], gain: &[T], bias: Option<&[T]>, y: &mut [T]) {
        let width = gain.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            match bias {
                Some(bias) => {
                    for (((y, &x), &gain), &bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                        *y = x.mul_add::<FUSED>(gain, bias);
                    }
                }
                None => {
                    for ((y, &x), &gain) in y.iter_mut().zip(x).zip(gain) {
                        *y = x * gain;
                    }
                }
            }
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(x: &[T], gain: &[T], gy: &[T], gx: &mut [T], sums: &mut [T]) {
        let width = gain.len();
        let (g_gain, g_bias) = sums.split_at_mut(width);
        for (x, gy) in x.chunks_exact(width).zip(gy.chunks_exact(width)) {
            let sums = g_gain.iter_mut().zip(g_bias.iter_mut());
            for (((g_gain, g_bias), &x), &gy) in sums.zip(x).zip(gy) {
                *g_gain = gy.mul_add::<FUSED>(x, *g_gain);
                *g_bias += gy;
            }
        }
        for (gx, gy) in gx.chunks_exact_mut(width).zip(gy.chunks_exact(width)) {
            for ((gx, &gy), &gain) in gx.iter_mut().zip(gy).zip(gain) {
                *gx = gy * gain;
            }
        }
    }
}

simd! {
    fn add_squares<T, const FUSED: bool>(x: &[T], sums: &mut [T]) {
        for x in x.chunks_exact(sums.len()) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum = x.mul_add::<FUSED>(x, *sum);
            }
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
        fn agrees_with_the_definition(rows in 0usize..30, width in 1usize..70, seed: u64) {
            let [x, gy] = [1, 2].map(|k| narrow(&noise(rows * width, seed ^ k)));
            let [gain, bias] = [3, 4].map(|k| narrow(&noise(width, seed ^ k)));
            let (mut y, mut gx) = (x.clone(), x.clone());
            scale_columns(&x, &gain, Some(&bias), &mut y);
            let (g_gain, g_bias) = scale_columns_backward(&x, &gain, &gy, Some(&mut gx));
            prop_assert_eq!(
                (&g_gain, &g_bias),
                (&scale_columns_backward(&x, &gain, &gy, None).0, &scale_columns_backward(&x, &gain, &gy, None).1)
            );
            let [x, gy, gain, bias] = [x, gy, gain, bias].map(|v| widen(&v));
            let at = |i: usize| i % width;
            let close = |found: &[f32], expected: Vec<f64>, terms: usize| {
                assert_close(found, &expected, |_| 2f64.powi(-23) * (terms + 1) as f64);
            };
            close(&y, x.iter().enumerate().map(|(i, x)| x * gain[at(i)] + bias[at(i)]).collect(), 1);
            close(&gx, gy.iter().enumerate().map(|(i, g)| g * gain[at(i)]).collect(), 1);
            let column = |j: usize| (0..rows).map(move |t| t * width + j);
            close(&g_gain, (0..width).map(|j| column(j).map(|i| gy[i] * x[i]).sum()).collect(), rows);
            close(&g_bias, (0..width).map(|j| column(j).map(|i| gy[i]).sum()).collect(), rows);
        }

        #[test]
        fn norms_are_those_of_the_changed_columns(rows in 0usize..90, width in 1usize..40, rank in 0usize..5, seed: u64) {
            let w = noise(rows * width, seed);
            let (a, b) = (noise(rows * rank, seed ^ 1), noise(rank * width, seed ^ 2));
            let mut norms = vec![9.0; width];
            low_rank_column_norms(&w, &a, &b, rank, 0.7, &mut norms);
            let entry = |i: usize, j: usize| {
                w[i * width + j] + 0.7 * (0..rank).map(|k| a[i * rank + k] * b[k * width + j]).sum::<f64>()
            };
            let expected: Vec<f64> = (0..width)
                .map(|j| (0..rows).map(|i| entry(i, j).powi(2)).sum::<f64>().sqrt())
                .collect();
            assert_close(&norms, &expected, |_| 1e-13);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, gy) = (narrow(&noise(3001 * 700, 1)), narrow(&noise(3001 * 700, 2)));
        let (gain, a, b) = (&x[..700], &x[..3001 * 2], &x[..1400]);
        assert_thread_independent(|| {
            let mut y = x.clone();
            scale_columns(&x, gain, None, &mut y);
            let (g_gain, g_bias) = scale_columns_backward(&x, gain, &gy, None);
            let mut norms = vec![0.0; 700];
            low_rank_column_norms(&x, a, b, 2, 0.5, &mut norms);
            [y, g_gain, g_bias, norms].concat()
        });
    }
}
