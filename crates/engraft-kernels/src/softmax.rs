//! Softmax over rows.

use crate::fold::{max, sum, sum2};
use crate::parallel::{for_each, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// Work of one element, in the unit of [`rows_per_task`].
const COST: usize = 24;

/// `y_i = e^(x_i - m) / sum_j e^(x_j - m)` over each row of `[rows, width]`, `m` its maximum.
///
/// A row with NaN, with plus infinity or of minus infinities alone is NaN throughout.
///
/// # Panics
///
/// Unless `x` and `y` have one length, a multiple of `width`.
pub fn softmax<T: Real>(x: &[T], width: usize, y: &mut [T]) {
    let rows = expect_rows("x", x, width);
    expect_len("y", y, x.len());
    let chunk = width * rows_per_task(rows, width * COST);
    for_each(x.chunks(chunk).zip(y.chunks_mut(chunk)), |(x, y)| {
        forward(x, width, y)
    });
}

/// `gx_i = y_i (gy_i - sum_j gy_j y_j)` over each row, from the output `y` of [`softmax`].
///
/// # Panics
///
/// Unless `y`, `gy` and `gx` have one length, a multiple of `width`.
pub fn softmax_backward<T: Real>(y: &[T], gy: &[T], width: usize, gx: &mut [T]) {
    let rows = expect_rows("y", y, width);
    expect_len("gy", gy, y.len());
    expect_len("gx", gx, y.len());
    let chunk = width * rows_per_task(rows, width * COST);
    let tasks = y
        .chunks(chunk)
        .zip(gy.chunks(chunk))
        .zip(gx.chunks_mut(chunk));
    for_each(tasks, |((y, gy), gx)| backward(y, gy, width, gx));
}

simd! {
    fn forward<T, const FUSED: bool>(x: &[T], width: usize, y: &mut [T]) {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let largest = max(x);
            for (&x, y) in x.iter().zip(&mut *y) {
                *y = (x - largest).exp::<FUSED>();
            }
            let scale = T::ONE / sum(y, |s, y| s + y);
            for y in y {
                *y *= scale;
            }
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(y: &[T], gy: &[T], width: usize, gx: &mut [T]) {
        let rows = y.chunks_exact(width).zip(gy.chunks_exact(width));
        for ((y, gy), gx) in rows.zip(gx.chunks_exact_mut(width)) {
            let mean = sum2(y, gy, |s, y, g| y.mul_add::<FUSED>(g, s));
            for ((&y, &gy), gx) in y.iter().zip(gy).zip(gx) {
                *gx = y * (gy - mean);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, rows, widen};
    use proptest::prelude::*;

    fn reference(x: &[f64], width: usize) -> Vec<f64> {
        let row = |x: &[f64]| {
            let m = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = x.iter().map(|x| (x - m).exp()).sum();
            x.iter().map(|x| (x - m).exp() / total).collect::<Vec<_>>()
        };
        x.chunks(width).flat_map(row).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_f64((width, x) in rows(10.0), shift in -1e3f64..1e3) {
            let x = narrow(&x);
            let expected = reference(&widen(&x), width);
            let mut y = vec![0.0f32; x.len()];
            softmax(&x, width, &mut y);
            // Rounding x - m moves the exponent by |x - m| 2^-24, and so e^(x - m) by as much, relatively.
            let depth = |i: usize| {
                let row = &widen(&x)[i / width * width..][..width];
                row.iter().copied().fold(f64::NEG_INFINITY, f64::max) - row[i % width]
            };
            let units = |i: usize| 16.0 + (width as f64).sqrt() + depth(i);
            let bound = |i: usize| 2f64.powi(-24) * units(i) * expected[i] + 1e-37;
            assert_close(&y, &expected, bound);

            // A common shift of a row changes nothing in exact arithmetic.
            let mut shifted = vec![0.0; x.len()];
            softmax(&widen(&x).iter().map(|x| x + shift).collect::<Vec<_>>(), width, &mut shifted);
            assert_close(&shifted, &expected, |i| 1e-11 * expected[i]);

            let gy: Vec<f32> = x.iter().map(|x| (3.0 * x).cos()).collect();
            let mut gx = vec![0.0f32; x.len()];
            softmax_backward(&y, &gy, width, &mut gx);
            let mut expected_gx = Vec::new();
            for (y, gy) in widen(&y).chunks(width).zip(widen(&gy).chunks(width)) {
                let mean: f64 = y.iter().zip(gy).map(|(y, g)| y * g).sum();
                expected_gx.extend(y.iter().zip(gy).map(|(y, g)| y * (g - mean)));
            }
            assert_close(&gx, &expected_gx, bound);
        }
    }

    #[test]
    fn special_rows() {
        let inf = f32::INFINITY;
        let x = [
            -inf,
            0.0,
            -inf,
            0.0,
            1e38,
            -1e38,
            f32::NAN,
            0.0,
            inf,
            1.0,
            -inf,
            -inf,
        ];
        let mut y = [0.0f32; 12];
        softmax(&x, 2, &mut y);
        assert_eq!(y[..6], [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
        assert!(y[6..].iter().all(|y| y.is_nan()));
        softmax::<f32>(&[], 3, &mut []);
        softmax(&[5.0f32], 1, &mut y[..1]);
        assert_eq!(y[0], 1.0);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x: Vec<f32> = (0..1001 * 197)
            .map(|i| (i as f32 * 0.37).sin() * 6.0)
            .collect();
        assert_thread_independent(|| {
            let (mut y, mut gx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            softmax(&x, 197, &mut y);
            softmax_backward(&y, &x, 197, &mut gx);
            [y, gx].concat()
        });
    }
}
