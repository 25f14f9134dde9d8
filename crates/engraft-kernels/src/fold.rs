//! Reductions over a row in a fixed order that vectorises.

use crate::Real;

/// Accumulators of a reduction: two vectors of AVX-512 in `f32`, to hide the latency of an add.
const LANES: usize = 32;

/// Folds two slices of one length: element `i` goes into accumulator `i mod 32` by `step`, then
/// accumulators are joined in halves.
#[inline(always)]
fn fold<T: Real>(
    x: &[T],
    y: &[T],
    start: T,
    step: impl Fn(T, T, T) -> T,
    join: impl Fn(T, T) -> T,
) -> T {
    let mut lanes = [start; LANES];
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..LANES {
            lanes[lane] = step(lanes[lane], x[lane], y[lane]);
        }
    }
    // Sums in registers that no store follows are left scalar by LLVM's vectoriser, which starts at
    // consecutive stores; this makes them.
    let mut lanes = std::hint::black_box(lanes);
    for (lane, (&x, &y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane = step(*lane, x, y);
    }
    for half in [16, 8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// `sum_i term(sum, x_i, y_i)`, where `term` adds to the sum that it is given.
#[inline(always)]
pub(crate) fn sum2<T: Real>(x: &[T], y: &[T], term: impl Fn(T, T, T) -> T) -> T {
    fold(x, y, T::ZERO, term, |a, b| a + b)
}

/// `sum_i term(sum, x_i)`, where `term` adds to the sum that it is given.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T], term: impl Fn(T, T) -> T) -> T {
    sum2(x, x, |sum, x, _| term(sum, x))
}

/// The largest number; NaN is passed over.
#[inline(always)]
pub(crate) fn max<T: Real>(x: &[T]) -> T {
    let larger = |a: T, b: T| if b > a { b } else { a };
    fold(x, x, T::NEG_INFINITY, |m, x, _| larger(m, x), larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_counts_every_element_once() {
        for len in 0..300 {
            let x: Vec<f64> = (0..len).map(f64::from).collect();
            assert_eq!(sum(&x, |s, x| s + x), f64::from((0..len).sum::<i32>()));
            assert_eq!(
                sum2(&x, &x, |s, x, y| s + x * y),
                x.iter().map(|x| x * x).sum()
            );
            let largest = x.last().copied().unwrap_or(f64::NEG_INFINITY);
            assert_eq!(max(&x), largest);
        }
        assert_eq!(max(&[1.0f32, f32::NAN, 3.0]), 3.0);
    }
}
