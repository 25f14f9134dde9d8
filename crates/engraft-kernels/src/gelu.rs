//! GELU in its exact form, by the normal distribution function.

use crate::Real;
use crate::elementwise::{map, map_backward};

/// Work of one element, in the unit of [`rows_per_task`](crate::parallel::rows_per_task).
const COST: usize = 32;

/// `y = x Phi(x)` elementwise, `Phi` the standard normal distribution function
/// (Hendrycks and Gimpel, arXiv 1606.08415, section 2). The limit at minus infinity is -0.
///
/// # Panics
///
/// Unless `x` and `y` have one length.
pub fn gelu<T: Real>(x: &[T], y: &mut [T]) {
    map(x, y, COST, forward);
}

/// `gx = gy (Phi(x) + x phi(x))` elementwise, `phi` the standard normal density.
///
/// # Panics
///
/// Unless `x`, `gy` and `gx` have one length.
pub fn gelu_backward<T: Real>(x: &[T], gy: &[T], gx: &mut [T]) {
    map_backward(x, gy, gx, COST, backward);
}

/// `x` no lower than where `Phi` has vanished, so that minus infinity times 0 is not met.
#[inline(always)]
fn bounded_below<T: Real>(x: T) -> T {
    let low = T::from_f64(-40.0);
    if x < low { low } else { x }
}

simd! {
    fn forward<T, const FUSED: bool>(x: &[T], y: &mut [T]) {
        for (&x, y) in x.iter().zip(y) {
            *y = bounded_below(x) * x.normal::<FUSED>().0;
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(x: &[T], gy: &[T], gx: &mut [T]) {
        for ((&x, &gy), gx) in x.iter().zip(gy).zip(gx) {
            let (cumulative, density) = x.normal::<FUSED>();
            let high = T::from_f64(40.0);
            let x = bounded_below(x);
            let x = if x > high { high } else { x };
            *gx = gy * x.mul_add::<FUSED>(density, cumulative);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, sizes, values};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_f64(x in values(sizes(), 8.0)) {
            let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let (mut y, mut expected) = (vec![0.0f32; x.len()], vec![0.0f64; x.len()]);
            gelu(&x, &mut y);
            gelu(&wide, &mut expected);
            // A few ulp of the value itself, in the tail too.
            assert_close(&y, &expected, |i| 8.0 * 2f64.powi(-24) * expected[i].abs() + 1e-43);

            let ones = vec![1.0f32; x.len()];
            gelu_backward(&x, &ones, &mut y);
            gelu_backward(&wide, &vec![1.0; x.len()], &mut expected);
            // The derivative vanishes at -0.75: its two terms are of order 1 there.
            assert_close(&y, &expected, |i| {
                let near = if wide[i].abs() < 2.0 { 4.0 } else { 0.0 };
                2f64.powi(-24) * (24.0 * expected[i].abs() + near) + 1e-43
            });
        }

        #[test]
        fn backward_is_the_derivative(x in values(1..40, 5.0)) {
            let step = 1e-5;
            let at = |shift: f64| {
                let shifted: Vec<f64> = x.iter().map(|x| x + shift).collect();
                let mut y = vec![0.0; x.len()];
                gelu(&shifted, &mut y);
                y
            };
            let mut gx = vec![0.0; x.len()];
            gelu_backward(&x, &vec![1.0; x.len()], &mut gx);
            let slope: Vec<f64> =
                at(step).iter().zip(at(-step)).map(|(a, b)| (a - b) / (2.0 * step)).collect();
            assert_close(&gx, &slope, |_| 1e-8);
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
            f32::MAX,
            f32::MIN,
        ];
        let mut y = [0.0; 8];
        gelu(&x, &mut y);
        assert_eq!(y[..2], [f32::INFINITY, 0.0]);
        assert!(y[2].is_nan());
        assert_eq!(
            y[3..5].iter().map(|y| y.to_bits()).collect::<Vec<_>>(),
            [0, 1 << 31]
        );
        assert!(y[5] == 0.0 || y[5] == 1e-45);
        assert_eq!(y[6..], [f32::MAX, 0.0]);
        gelu_backward(&x, &[2.0; 8], &mut y);
        assert_eq!(y[..2], [2.0, 0.0]);
        assert!(y[2].is_nan());
        assert_eq!(y[3..], [1.0, 1.0, 1.0, 2.0, 0.0]);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x: Vec<f32> = (0..200_003)
            .map(|i| (i as f32 * 0.37).sin() * 6.0)
            .collect();
        assert_thread_independent(|| {
            let mut y = vec![0.0; x.len()];
            gelu(&x, &mut y);
            let mut gx = vec![0.0; x.len()];
            gelu_backward(&x, &y, &mut gx);
            [y, gx].concat()
        });
    }

    #[test]
    #[should_panic(expected = "y: found 2 numbers, expected 3")]
    fn lengths_are_checked() {
        gelu(&[0.0f32; 3], &mut [0.0; 2]);
    }
}
