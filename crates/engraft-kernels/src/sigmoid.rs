//! The logistic function, the hyperbolic tangent and the rectifier.

use crate::Real;
use crate::elementwise::{map, map_backward};

/// Work of one element, in the unit of [`rows_per_task`](crate::parallel::rows_per_task).
const COST: usize = 24;

/// `y = s(x) = 1 / (1 + e^-x)` elementwise, without overflow or cancellation.
///
/// # Panics
///
/// Unless `x` and `y` have one length.
pub fn sigmoid<T: Real>(x: &[T], y: &mut [T]) {
    map(x, y, COST, sigmoid_forward);
}

/// `gx = gy s(x) s(-x)` elementwise.
///
/// # Panics
///
/// Unless `x`, `gy` and `gx` have one length.
pub fn sigmoid_backward<T: Real>(x: &[T], gy: &[T], gx: &mut [T]) {
    map_backward(x, gy, gx, COST, sigmoid_slope);
}

/// `y = tanh x` elementwise.
///
/// # Panics
///
/// Unless `x` and `y` have one length.
pub fn tanh<T: Real>(x: &[T], y: &mut [T]) {
    map(x, y, COST, tanh_forward);
}

/// `gx = gy (1 - tanh^2 x) = 4 gy s(2 x) s(-2 x)` elementwise, which does not cancel in the tails.
///
/// # Panics
///
/// Unless `x`, `gy` and `gx` have one length.
pub fn tanh_backward<T: Real>(x: &[T], gy: &[T], gx: &mut [T]) {
    map_backward(x, gy, gx, COST, tanh_slope);
}

/// `y = max(x, 0)` elementwise; NaN stays NaN.
///
/// # Panics
///
/// Unless `x` and `y` have one length.
pub fn relu<T: Real>(x: &[T], y: &mut [T]) {
    map(x, y, 1, relu_forward);
}

/// `gx = gy` where `x` is above 0, or NaN, and 0 elsewhere.
///
/// # Panics
///
/// Unless `x`, `gy` and `gx` have one length.
pub fn relu_backward<T: Real>(x: &[T], gy: &[T], gx: &mut [T]) {
    map_backward(x, gy, gx, 1, relu_slope);
}

/// `(s(x), s(-x))`, both without cancellation.
#[inline(always)]
pub(crate) fn sigmoids<T: Real, const FUSED: bool>(x: T) -> (T, T) {
    let e = (-x.abs()).exp::<FUSED>();
    let large = T::ONE / (T::ONE + e);
    let small = e * large;
    if x < T::ZERO {
        (small, large)
    } else {
        (large, small)
    }
}

simd! {
    fn sigmoid_forward<T, const FUSED: bool>(x: &[T], y: &mut [T]) {
        for (&x, y) in x.iter().zip(y) {
            *y = sigmoids::<T, FUSED>(x).0;
        }
    }
}

simd! {
    fn sigmoid_slope<T, const FUSED: bool>(x: &[T], gy: &[T], gx: &mut [T]) {
        for ((&x, &gy), gx) in x.iter().zip(gy).zip(gx) {
            let (s, complement) = sigmoids::<T, FUSED>(x);
            *gx = gy * (s * complement);
        }
    }
}

simd! {
    fn tanh_forward<T, const FUSED: bool>(x: &[T], y: &mut [T]) {
        for (&x, y) in x.iter().zip(y) {
            *y = x.tanh::<FUSED>();
        }
    }
}

simd! {
    fn tanh_slope<T, const FUSED: bool>(x: &[T], gy: &[T], gx: &mut [T]) {
        let four = T::from_f64(4.0);
        for ((&x, &gy), gx) in x.iter().zip(gy).zip(gx) {
            let (s, complement) = sigmoids::<T, FUSED>(x + x);
            *gx = gy * (four * (s * complement));
        }
    }
}

simd! {
    fn relu_forward<T, const FUSED: bool>(x: &[T], y: &mut [T]) {
        for (&x, y) in x.iter().zip(y) {
            *y = if x < T::ZERO { T::ZERO } else { x };
        }
    }
}

simd! {
    fn relu_slope<T, const FUSED: bool>(x: &[T], gy: &[T], gx: &mut [T]) {
        for ((&x, &gy), gx) in x.iter().zip(gy).zip(gx) {
            *gx = if x <= T::ZERO { T::ZERO } else { gy };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, sizes, values};
    use proptest::prelude::*;

    type Forward<T> = fn(&[T], &mut [T]);
    type Backward<T> = fn(&[T], &[T], &mut [T]);

    fn logistic(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn sech2(x: f64) -> f64 {
        x.cosh().powi(-2)
    }

    /// A function and its slope, on slices and in double precision.
    type Tested = (Forward<f32>, Backward<f32>, fn(f64) -> f64, fn(f64) -> f64);

    /// Value and slope of each function, in single precision and in double.
    const ALL: [Tested; 3] = [
        (sigmoid, sigmoid_backward, logistic, |x| {
            logistic(x) * logistic(-x)
        }),
        (tanh, tanh_backward, f64::tanh, sech2),
        (relu, relu_backward, |x| x.max(0.0), |x| f64::from(x > 0.0)),
    ];

    proptest! {
        #[test]
        fn agree_with_f64(x in values(sizes(), 30.0)) {
            let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let mut y = vec![0.0f32; x.len()];
            for (forward, backward, value, slope) in ALL {
                forward(&x, &mut y);
                let expected: Vec<f64> = x.iter().map(|&x| value(x.into())).collect();
                assert_close(&y, &expected, |i| 8.0 * 2f64.powi(-24) * expected[i].abs());
                backward(&x, &vec![1.0; x.len()], &mut y);
                let expected: Vec<f64> = x.iter().map(|&x| slope(x.into())).collect();
                assert_close(&y, &expected, |i| 16.0 * 2f64.powi(-24) * expected[i].abs());
            }
        }

        #[test]
        fn double_precision_is_accurate(x in values(sizes(), 300.0)) {
            let mut y = vec![0.0; x.len()];
            let close = |found: &[f64], expected: Vec<f64>| {
                assert_close(found, &expected, |i| 8.0 * 2f64.powi(-53) * expected[i].abs());
            };
            sigmoid(&x, &mut y);
            close(&y, x.iter().map(|&x| logistic(x)).collect());
            tanh(&x, &mut y);
            close(&y, x.iter().map(|x| x.tanh()).collect());
        }
    }

    #[test]
    fn special_values_have_their_limits() {
        let x = [
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            0.0,
            -0.0,
            1e-45,
            -1e-40,
            f32::MIN,
        ];
        let (mut y, mut gx) = ([0.0; 8], [0.0; 8]);
        let limits = [
            (
                [1.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0],
                [0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0],
            ),
            (
                [1.0, -1.0, 0.0, 0.0, 1e-45, -1e-40, -1.0],
                [0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 0.0],
            ),
            (
                [f32::INFINITY, 0.0, 0.0, 0.0, 1e-45, 0.0, 0.0],
                [2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0],
            ),
        ];
        for ((forward, backward, ..), (value, slope)) in ALL.into_iter().zip(limits) {
            forward(&x, &mut y);
            backward(&x, &[2.0; 8], &mut gx);
            assert!(y[2].is_nan());
            let but_nan = |y: [f32; 8]| [y[0], y[1], y[3], y[4], y[5], y[6], y[7]];
            // One unit of the smallest number where the result is that small.
            let close = |a: [f32; 7], b: [f32; 7]| {
                a.iter()
                    .zip(b)
                    .all(|(a, b)| *a == b || (a - b).abs() <= 1e-45)
            };
            assert!(close(but_nan(y), value), "{y:?} instead of {value:?}");
            assert!(close(but_nan(gx), slope), "{gx:?} instead of {slope:?}");
        }
        tanh(&x, &mut y);
        assert_eq!([y[3].to_bits(), y[4].to_bits()], [0, 1 << 31]);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x: Vec<f32> = (0..200_003)
            .map(|i| (i as f32 * 0.37).sin() * 6.0)
            .collect();
        for (forward, backward, ..) in ALL {
            assert_thread_independent(|| {
                let (mut y, mut gx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                forward(&x, &mut y);
                backward(&x, &y, &mut gx);
                [y, gx].concat()
            });
        }
    }
}
