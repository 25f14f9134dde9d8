//! SiLU, also called swish.

use crate::Real;
use crate::elementwise::{map, map_backward};
use crate::sigmoid::sigmoids;

/// Work of one element, in the unit of [`rows_per_task`](crate::parallel::rows_per_task).
const COST: usize = 24;

/// `y = x s(x)` elementwise, `s(x) = 1 / (1 + e^-x)`
/// (Elfwing et al., arXiv 1702.03118, section 2). The limit at minus infinity is -0.
///
/// # Panics
///
/// Unless `x` and `y` have one length.
pub fn silu<T: Real>(x: &[T], y: &mut [T]) {
    map(x, y, COST, forward);
}

/// `gx = gy s(x) (1 + x (1 - s(x)))` elementwise.
///
/// # Panics
///
/// Unless `x`, `gy` and `gx` have one length.
pub fn silu_backward<T: Real>(x: &[T], gy: &[T], gx: &mut [T]) {
    map_backward(x, gy, gx, COST, backward);
}

/// `x` no further from 0 than where the sigmoid is 0 or 1 in this type.
#[inline(always)]
fn bounded<T: Real>(x: T, low: f64, high: f64) -> T {
    let (low, high) = (T::from_f64(low), T::from_f64(high));
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

simd! {
    fn forward<T, const FUSED: bool>(x: &[T], y: &mut [T]) {
        for (&x, y) in x.iter().zip(y) {
            *y = bounded(x, -800.0, f64::INFINITY) * sigmoids::<T, FUSED>(x).0;
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(x: &[T], gy: &[T], gx: &mut [T]) {
        for ((&x, &gy), gx) in x.iter().zip(gy).zip(gx) {
            let (s, complement) = sigmoids::<T, FUSED>(x);
            let x = bounded(x, -800.0, 800.0);
            *gx = gy * (s * x.mul_add::<FUSED>(complement, T::ONE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, sizes, values};
    use proptest::prelude::*;

    fn reference(x: f64) -> (f64, f64) {
        let s = 1.0 / (1.0 + (-x).exp());
        (x * s, s * (1.0 + x * (1.0 - s)))
    }

    proptest! {
        #[test]
        fn agrees_with_f64(x in values(sizes(), 40.0)) {
            let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let mut y = vec![0.0f32; x.len()];
            let expected: Vec<f64> = x.iter().map(|&x| reference(x.into()).0).collect();
            silu(&x, &mut y);
            assert_close(&y, &expected, |i| 8.0 * 2f64.powi(-24) * expected[i].abs());

            let expected: Vec<f64> = x.iter().map(|&x| reference(x.into()).1).collect();
            silu_backward(&x, &vec![1.0; x.len()], &mut y);
            // The derivative vanishes at -1.28: its two terms are of order 1 there.
            assert_close(&y, &expected, |i| {
                2f64.powi(-24) * (8.0 * expected[i].abs() + 4.0 * (-x[i].abs()).exp() as f64)
            });
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
            f32::MAX,
            f32::MIN,
        ];
        let mut y = [0.0; 7];
        silu(&x, &mut y);
        assert_eq!(y[..2], [f32::INFINITY, 0.0]);
        assert!(y[2].is_nan());
        assert_eq!(
            y[3..5].iter().map(|y| y.to_bits()).collect::<Vec<_>>(),
            [0, 1 << 31]
        );
        assert_eq!(y[5..], [f32::MAX, 0.0]);
        silu_backward(&x, &[2.0; 7], &mut y);
        assert_eq!(y[..2], [2.0, 0.0]);
        assert!(y[2].is_nan());
        assert_eq!(y[3..], [1.0, 1.0, 2.0, 0.0]);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x: Vec<f32> = (0..200_003)
            .map(|i| (i as f32 * 0.37).sin() * 6.0)
            .collect();
        assert_thread_independent(|| {
            let (mut y, mut gx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            silu(&x, &mut y);
            silu_backward(&x, &y, &mut gx);
            [y, gx].concat()
        });
    }
}
