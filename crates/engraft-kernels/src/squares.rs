//! Euclidean norm of several arrays together, and their scaling.

use crate::Real;
use crate::fold::sum;
use crate::parallel::{for_each, rows_per_task};

/// Numbers that are summed in their own precision before the sum is widened.
const RUN: usize = 4096;

/// Work of one element, in the unit of [`rows_per_task`]: memory decides.
const COST: usize = 8;

/// `sum x^2` over all arrays, in `f64` from runs of 4096 numbers on.
///
/// One pass of reading: 2 flops a number.
pub fn sum_of_squares<T: Real>(arrays: &[&[T]]) -> f64 {
    let runs: Vec<&[T]> = arrays.iter().flat_map(|array| array.chunks(RUN)).collect();
    let mut sums = vec![0.0; runs.len()];
    let total: usize = arrays.iter().map(|array| array.len()).sum();
    let task = rows_per_task(total, COST).div_ceil(RUN);
    for_each(
        runs.chunks(task).zip(sums.chunks_mut(task)),
        |(runs, sums)| squares(runs, sums),
    );
    sums.iter().sum()
}

/// `x <- factor x` for every number of all arrays.
pub fn scale<T: Real>(arrays: Vec<&mut [T]>, factor: f64) {
    let total = arrays.iter().map(|array| array.len()).sum();
    let task = rows_per_task(total, COST);
    let chunks: Vec<_> = arrays
        .into_iter()
        .flat_map(|array| array.chunks_mut(task))
        .collect();
    let factor = T::from_f64(factor);
    for_each(chunks.into_iter(), |chunk| multiply(chunk, factor));
}

simd! {
    fn squares<T, const FUSED: bool>(runs: &[&[T]], sums: &mut [f64]) {
        for (run, total) in runs.iter().zip(sums) {
            *total = sum(run, |s, x| x.mul_add::<FUSED>(x, s)).to_f64();
        }
    }
}

simd! {
    fn multiply<T, const FUSED: bool>(x: &mut [T], factor: T) {
        for x in x {
            *x *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_one_loop(lens in prop::collection::vec(0usize..9000, 0..4), seed: u64) {
            let wide: Vec<_> = lens.iter().map(|&len| noise(len, seed ^ len as u64)).collect();
            let arrays: Vec<Vec<f32>> = wide.iter().map(|x| narrow(x)).collect();
            let slices: Vec<&[f32]> = arrays.iter().map(Vec::as_slice).collect();
            let found = sum_of_squares(&slices);
            let expected: f64 = arrays.concat().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            // 128 terms of one sign in each accumulator, and five joins.
            prop_assert!((found - expected).abs() <= 2f64.powi(-24) * 134.0 * expected);

            let mut scaled = arrays.clone();
            scale(scaled.iter_mut().map(Vec::as_mut_slice).collect(), 0.25);
            let quarter: Vec<f32> = arrays.concat().iter().map(|x| x * 0.25).collect();
            prop_assert_eq!(scaled.concat(), quarter);
        }
    }

    #[test]
    fn nothing_is_nothing_and_nan_is_seen() {
        assert_eq!(sum_of_squares::<f32>(&[]), 0.0);
        assert_eq!(sum_of_squares::<f32>(&[&[]]), 0.0);
        assert!(sum_of_squares(&[&[1.0f32, f32::NAN][..]]).is_nan());
        assert_eq!(sum_of_squares(&[&[f32::INFINITY][..]]), f64::INFINITY);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let [a, b] = [1, 2].map(|seed| narrow(&noise(700_003, seed)));
        assert_thread_independent(|| {
            let norm = sum_of_squares(&[&a, &b]);
            vec![norm as f32, (norm - f64::from(norm as f32)) as f32]
        });
    }
}
