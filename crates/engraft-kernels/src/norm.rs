//! Layer norm and RMS norm over rows.

use crate::fold::{sum, sum2};
use crate::parallel::{chunks_mut, for_each, reduce, rows_per_partial, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// Work of one element, in the unit of [`rows_per_task`].
const COST: usize = 8;

/// What [`layer_norm`] keeps of each row for its backward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments<T> {
    /// Mean of each row, `[rows]`.
    pub mean: Vec<T>,
    /// `1 / sqrt(variance + eps)` of each row, `[rows]`.
    pub rstd: Vec<T>,
}

/// `y = gamma (x - mean) rstd + beta` over each row of `[rows, width]`, `rstd = 1 / sqrt(var + eps)`
/// with the biased variance (Ba et al., arXiv 1607.06450, equation 4). `width = gamma.len()`.
///
/// # Panics
///
/// Unless `gamma` and `beta` have one length, of which the length of `x` and `y` is a multiple.
pub fn layer_norm<T: Real>(x: &[T], gamma: &[T], beta: &[T], eps: f64, y: &mut [T]) -> Moments<T> {
    let width = gamma.len();
    let rows = expect_rows("x", x, width);
    expect_len("beta", beta, width);
    expect_len("y", y, x.len());
    let (mut mean, mut rstd) = (vec![T::ZERO; rows], vec![T::ZERO; rows]);
    let task = rows_per_task(rows, width * COST);
    let moments = mean.chunks_mut(task).zip(rstd.chunks_mut(task));
    let tasks = x
        .chunks(task * width)
        .zip(y.chunks_mut(task * width))
        .zip(moments);
    let eps = T::from_f64(eps);
    for_each(tasks, |((x, y), (mean, rstd))| {
        layer_forward(x, gamma, beta, eps, y, mean, rstd)
    });
    Moments { mean, rstd }
}

/// Writes `gx` and returns `(g_gamma, g_beta)` of [`layer_norm`].
///
/// With `n = (x - mean) rstd` and `g = gamma gy`: `gx = rstd (g - mean(g) - n mean(g n))`,
/// `g_gamma = sum gy n` and `g_beta = sum gy` over rows.
///
/// # Panics
///
/// Unless the lengths are those of the forward pass.
pub fn layer_norm_backward<T: Real>(
    x: &[T],
    gamma: &[T],
    moments: &Moments<T>,
    gy: &[T],
    gx: &mut [T],
) -> (Vec<T>, Vec<T>) {
    let width = gamma.len();
    let rows = expect_rows("x", x, width);
    expect_len("mean", &moments.mean, rows);
    expect_len("rstd", &moments.rstd, rows);
    expect_len("gy", gy, x.len());
    expect_len("gx", gx, x.len());
    let task = rows_per_partial(rows, width * COST);
    let outputs = chunks_mut(gx, task * width);
    let mut g_gamma = reduce(rows, task, 2 * width, outputs, |range, sums, gx| {
        let span = range.start * width..range.end * width;
        let (g_gamma, g_beta) = sums.split_at_mut(width);
        let (mean, rstd) = (&moments.mean[range.clone()], &moments.rstd[range]);
        let rows = Rows {
            x: &x[span.clone()],
            gy: &gy[span],
            mean,
            rstd,
            gamma,
        };
        layer_parameters(rows, g_gamma, g_beta);
        layer_input(rows, gx);
    });
    let g_beta = g_gamma.split_off(width);
    (g_gamma, g_beta)
}

/// `y = gamma x rstd` over each row of `[rows, width]`, `rstd = 1 / sqrt(mean(x^2) + eps)`, and
/// returns `rstd`, `[rows]` (Zhang and Sennrich, arXiv 1910.07467, equation 4).
///
/// # Panics
///
/// Unless the length of `x` and `y` is a multiple of the length of `gamma`.
pub fn rms_norm<T: Real>(x: &[T], gamma: &[T], eps: f64, y: &mut [T]) -> Vec<T> {
    let width = gamma.len();
    let rows = expect_rows("x", x, width);
    expect_len("y", y, x.len());
    let mut rstd = vec![T::ZERO; rows];
    let task = rows_per_task(rows, width * COST);
    let tasks = x
        .chunks(task * width)
        .zip(y.chunks_mut(task * width))
        .zip(rstd.chunks_mut(task));
    let eps = T::from_f64(eps);
    for_each(tasks, |((x, y), rstd)| rms_forward(x, gamma, eps, y, rstd));
    rstd
}

/// Writes `gx` and returns `g_gamma` of [`rms_norm`].
///
/// With `n = x rstd` and `g = gamma gy`: `gx = rstd (g - n mean(g n))` and `g_gamma = sum gy n`
/// over rows.
///
/// # Panics
///
/// Unless the lengths are those of the forward pass.
pub fn rms_norm_backward<T: Real>(
    x: &[T],
    gamma: &[T],
    rstd: &[T],
    gy: &[T],
    gx: &mut [T],
) -> Vec<T> {
    let width = gamma.len();
    let rows = expect_rows("x", x, width);
    expect_len("rstd", rstd, rows);
    expect_len("gy", gy, x.len());
    expect_len("gx", gx, x.len());
    let task = rows_per_partial(rows, width * COST);
    reduce(
        rows,
        task,
        width,
        chunks_mut(gx, task * width),
        |range, g_gamma, gx| {
            let span = range.start * width..range.end * width;
            let rows = Rows {
                x: &x[span.clone()],
                gy: &gy[span],
                mean: &[],
                rstd: &rstd[range],
                gamma,
            };
            rms_parameters(rows, g_gamma);
            rms_input(rows, gx);
        },
    )
}

/// What a backward pass reads; `mean` is empty for RMS norm.
#[derive(Clone, Copy)]
struct Rows<'a, T> {
    x: &'a [T],
    gy: &'a [T],
    mean: &'a [T],
    rstd: &'a [T],
    gamma: &'a [T],
}

simd! {
    fn layer_forward<T, const FUSED: bool>(
        x: &[T], gamma: &[T], beta: &[T], eps: T, y: &mut [T], mean: &mut [T], rstd: &mut [T],
    ) {
        let width = gamma.len();
        let share = T::from_f64(1.0 / width as f64);
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
            let m = sum(x, |s, x| s + x) * share;
            // Two passes: the difference of mean squares would cancel.
            let variance = sum(x, |s, x| (x - m).mul_add::<FUSED>(x - m, s)) * share;
            let r = T::ONE / (variance + eps).sqrt();
            for (((&x, y), &gamma), &beta) in x.iter().zip(y).zip(gamma).zip(beta) {
                *y = ((x - m) * r).mul_add::<FUSED>(gamma, beta);
            }
            (*mean, *rstd) = (m, r);
        }
    }
}

simd! {
    fn rms_forward<T, const FUSED: bool>(x: &[T], gamma: &[T], eps: T, y: &mut [T], rstd: &mut [T]) {
        let width = gamma.len();
        let share = T::from_f64(1.0 / width as f64);
        for ((x, y), rstd) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(rstd) {
            let r = T::ONE / (sum(x, |s, x| x.mul_add::<FUSED>(x, s)) * share + eps).sqrt();
            for ((&x, y), &gamma) in x.iter().zip(y).zip(gamma) {
                *y = x * r * gamma;
            }
            *rstd = r;
        }
    }
}

simd! {
    fn layer_parameters<T, const FUSED: bool>(rows: Rows<'_, T>, g_gamma: &mut [T], g_beta: &mut [T]) {
        let width = rows.gamma.len();
        let data = rows.x.chunks_exact(width).zip(rows.gy.chunks_exact(width));
        for ((x, gy), (&mean, &rstd)) in data.zip(rows.mean.iter().zip(rows.rstd)) {
            for ((sum, &gy), &x) in g_gamma.iter_mut().zip(gy).zip(x) {
                *sum = gy.mul_add::<FUSED>((x - mean) * rstd, *sum);
            }
            for (sum, &gy) in g_beta.iter_mut().zip(gy) {
                *sum += gy;
            }
        }
    }
}

simd! {
    fn layer_input<T, const FUSED: bool>(rows: Rows<'_, T>, gx: &mut [T]) {
        let width = rows.gamma.len();
        let share = T::from_f64(1.0 / width as f64);
        let data = rows.x.chunks_exact(width).zip(rows.gy.chunks_exact(width));
        let data = data.zip(gx.chunks_exact_mut(width));
        for (((x, gy), gx), (&mean, &rstd)) in data.zip(rows.mean.iter().zip(rows.rstd)) {
            for ((gx, &gy), &gamma) in gx.iter_mut().zip(gy).zip(rows.gamma) {
                *gx = gamma * gy;
            }
            let mean_g = sum(gx, |s, g| s + g) * share;
            let dot = sum2(gx, x, |s, g, x| g.mul_add::<FUSED>(x - mean, s)) * rstd * share;
            for (gx, &x) in gx.iter_mut().zip(x) {
                *gx = rstd * (*gx - mean_g - (x - mean) * rstd * dot);
            }
        }
    }
}

simd! {
    fn rms_parameters<T, const FUSED: bool>(rows: Rows<'_, T>, g_gamma: &mut [T]) {
        let width = rows.gamma.len();
        let data = rows.x.chunks_exact(width).zip(rows.gy.chunks_exact(width));
        for ((x, gy), &rstd) in data.zip(rows.rstd) {
            for ((sum, &gy), &x) in g_gamma.iter_mut().zip(gy).zip(x) {
                *sum = gy.mul_add::<FUSED>(x * rstd, *sum);
            }
        }
    }
}

simd! {
    fn rms_input<T, const FUSED: bool>(rows: Rows<'_, T>, gx: &mut [T]) {
        let width = rows.gamma.len();
        let share = T::from_f64(1.0 / width as f64);
        let data = rows.x.chunks_exact(width).zip(rows.gy.chunks_exact(width));
        for (((x, gy), gx), &rstd) in data.zip(gx.chunks_exact_mut(width)).zip(rows.rstd) {
            for ((gx, &gy), &gamma) in gx.iter_mut().zip(gy).zip(rows.gamma) {
                *gx = gamma * gy;
            }
            let dot = sum2(gx, x, |s, g, x| g.mul_add::<FUSED>(x, s)) * rstd * share;
            for (gx, &x) in gx.iter_mut().zip(x) {
                *gx = rstd * (*gx - x * rstd * dot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        assert_close, assert_thread_independent, narrow, noise, rows, slope, widen,
    };
    use proptest::prelude::*;

    const EPS: f64 = 1e-5;

    /// Output of one row, with the mean taken off (layer norm) or not (RMS norm).
    fn reference(x: &[f64], gamma: &[f64], beta: &[f64], centred: bool) -> Vec<f64> {
        let n = gamma.len() as f64;
        let row = |x: &[f64]| {
            let mean = if centred {
                x.iter().sum::<f64>() / n
            } else {
                0.0
            };
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            let normal = x.iter().map(|x| (x - mean) / (variance + EPS).sqrt());
            normal
                .zip(gamma)
                .zip(beta)
                .map(|((n, g), b)| n * g + b)
                .collect::<Vec<_>>()
        };
        x.chunks(gamma.len()).flat_map(row).collect()
    }

    proptest! {
        #[test]
        fn forward_agrees_with_f64((width, x) in rows(3.0), shift in -50.0f64..50.0) {
            let x: Vec<f64> = x.iter().map(|x| x + shift).collect();
            let x = narrow(&x);
            let (gamma, beta) = (narrow(&noise(width, 1)), narrow(&noise(width, 2)));
            let mut y = vec![0.0f32; x.len()];
            let moments = layer_norm(&x, &gamma, &beta, EPS, &mut y);
            let expected = reference(&widen(&x), &widen(&gamma), &widen(&beta), true);
            // Rounding the mean moves every element by an ulp of the shift, in units of the deviation.
            assert_close(&y, &expected, |i| {
                let rstd = f64::from(moments.rstd[i / width]);
                2f64.powi(-24) * (16.0 + 8.0 * rstd * (shift.abs() + 3.0)) * (1.0 + expected[i].abs())
            });
            rms_norm(&x, &gamma, EPS, &mut y);
            let expected = reference(&widen(&x), &widen(&gamma), &vec![0.0; width], false);
            assert_close(&y, &expected, |i| 2f64.powi(-24) * 16.0 * expected[i].abs() + 1e-37);
        }

        #[test]
        fn backward_is_the_derivative(width in 2usize..9, count in 1usize..4, seed: u64) {
            let (x, gy) = (noise(width * count, seed), noise(width * count, seed ^ 1));
            let (gamma, beta) = (noise(width, seed ^ 2), noise(width, seed ^ 3));
            let (mut y, mut gx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let moments = layer_norm(&x, &gamma, &beta, EPS, &mut y);
            let (g_gamma, g_beta) = layer_norm_backward(&x, &gamma, &moments, &gy, &mut gx);
            // Third derivatives grow with rstd^3.
            let largest = moments.rstd.iter().copied().fold(1.0, f64::max);
            let bound = |_| 1e-7 * largest.powi(3) * width as f64;
            assert_close(&gx, &slope(&x, &gy, |x| reference(x, &gamma, &beta, true)), bound);
            assert_close(&g_gamma, &slope(&gamma, &gy, |g| reference(&x, g, &beta, true)), bound);
            assert_close(&g_beta, &slope(&beta, &gy, |b| reference(&x, &gamma, b, true)), bound);

            let rstd = rms_norm(&x, &gamma, EPS, &mut y);
            let g_gamma = rms_norm_backward(&x, &gamma, &rstd, &gy, &mut gx);
            let zeros = vec![0.0; width];
            let largest = rstd.iter().copied().fold(1.0, f64::max);
            let bound = |_| 1e-7 * largest.powi(3) * width as f64;
            assert_close(&gx, &slope(&x, &gy, |x| reference(x, &gamma, &zeros, false)), bound);
            assert_close(&g_gamma, &slope(&gamma, &gy, |g| reference(&x, g, &zeros, false)), bound);
        }
    }

    /// Both backward passes on `[rows, width]`, one after the other.
    fn gradients<T: Real>(x: &[T], gamma: &[T], gy: &[T]) -> Vec<T> {
        let (mut y, mut gx) = (vec![T::ZERO; x.len()], vec![T::ZERO; x.len()]);
        let moments = layer_norm(x, gamma, gamma, EPS, &mut y);
        let (g_gamma, g_beta) = layer_norm_backward(x, gamma, &moments, gy, &mut gx);
        let mut all = [y.clone(), gx.clone(), g_gamma, g_beta].concat();
        let rstd = rms_norm(x, gamma, EPS, &mut y);
        let g_gamma = rms_norm_backward(x, gamma, &rstd, gy, &mut gx);
        all.extend([y, gx, g_gamma].concat());
        all
    }

    #[test]
    fn backward_in_f32_agrees_with_f64_over_many_rows() {
        let (rows, width) = (301, 95);
        let (x, gy) = (
            narrow(&noise(rows * width, 1)),
            narrow(&noise(rows * width, 2)),
        );
        let gamma = narrow(&noise(width, 3));
        let expected = gradients(&widen(&x), &widen(&gamma), &widen(&gy));
        // Sums over rows of numbers of order 1: the rounding of each addition is that of the sum.
        let bound = 2f64.powi(-24) * (16.0 + (rows as f64).sqrt() * 4.0);
        assert_close(&gradients(&x, &gamma, &gy), &expected, |i| {
            bound * (1.0 + expected[i].abs())
        });
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (rows, width) = (1003, 197);
        let (x, gy) = (
            narrow(&noise(rows * width, 1)),
            narrow(&noise(rows * width, 2)),
        );
        let gamma = narrow(&noise(width, 3));
        assert_thread_independent(|| gradients(&x, &gamma, &gy));
    }

    #[test]
    fn special_rows() {
        let x = [
            2.0f32,
            2.0,
            2.0,
            f32::NAN,
            0.0,
            0.0,
            f32::INFINITY,
            0.0,
            0.0,
        ];
        let mut y = [0.0; 9];
        layer_norm(&x, &[1.0; 3], &[0.5; 3], EPS, &mut y);
        assert_eq!(y[..3], [0.5; 3]);
        assert!(y[3..].iter().all(|y| y.is_nan()));
        let moments = layer_norm::<f32>(&[], &[1.0; 3], &[0.0; 3], EPS, &mut []);
        let (g, b) = layer_norm_backward::<f32>(&[], &[1.0; 3], &moments, &[], &mut []);
        assert_eq!([g, b], [[0.0; 3]; 2]);
    }
}
