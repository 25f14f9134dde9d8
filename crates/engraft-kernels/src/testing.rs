//! What the tests of the kernels share.

use crate::Real;
use proptest::collection::vec;
use proptest::prelude::*;
use std::ops::Range;

/// Lengths that straddle the widths of vectors and accumulators.
pub(crate) fn sizes() -> Range<usize> {
    0..150
}

/// Numbers in `[-range, range]`.
pub(crate) fn values(len: Range<usize>, range: f64) -> impl Strategy<Value = Vec<f64>> {
    vec(-range..=range, len)
}

/// `(width, [rows, width])` with numbers in `[-range, range]`.
pub(crate) fn rows(range: f64) -> impl Strategy<Value = (usize, Vec<f64>)> {
    (1usize..80, 0usize..6)
        .prop_flat_map(move |(width, rows)| (Just(width), vec(-range..=range, width * rows)))
}

/// Rounded to `f32`.
pub(crate) fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// The same numbers in `f64`.
pub(crate) fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

/// Numbers in `[-1, 1]` without structure, the same for the same `seed`.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Gradient of `sum(gy * f(v))` by central differences in `f64`.
pub(crate) fn slope(v: &[f64], gy: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let step = 1e-4;
    let at = |i: usize, shift: f64| {
        let mut moved = v.to_vec();
        moved[i] += shift;
        f(&moved).iter().zip(gy).map(|(y, g)| y * g).sum::<f64>()
    };
    (0..v.len())
        .map(|i| (at(i, step) - at(i, -step)) / (2.0 * step))
        .collect()
}

/// Panics unless `|found_i - expected_i| <= tolerance(i)` for every `i`.
#[track_caller]
pub(crate) fn assert_close<T: Real>(
    found: &[T],
    expected: &[f64],
    tolerance: impl Fn(usize) -> f64,
) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (found, tolerance) = (found.to_f64(), tolerance(i));
        assert!(
            (found - expected).abs() <= tolerance,
            "element {i}: {found:e} instead of {expected:e}, tolerance {tolerance:e}"
        );
    }
}

/// Panics unless `run` returns the same bits on 1, 2, 3 and 8 threads.
#[track_caller]
pub(crate) fn assert_thread_independent(run: impl Fn() -> Vec<f32> + Sync) {
    let on = |threads: usize| -> Vec<u32> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| run().into_iter().map(f32::to_bits).collect())
    };
    let one = on(1);
    for threads in [2, 3, 8] {
        assert!(on(threads) == one, "{threads} threads differ from one");
    }
}
