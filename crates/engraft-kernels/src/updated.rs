//! A matrix with a low-rank update, in one pass.

use std::mem::MaybeUninit;

use crate::matmul::{Mat, Onto, matmul};
use crate::parallel::{for_each, rows_per_task};
use crate::product::{Extent, Strided, multiply_add, tile_rows};
use crate::{Real, expect_len};

/// Largest rank whose factors stay in the second cache beside the rows.
const RANK: usize = 32;

/// `W + s A B` for `W` of `[rows, columns]`, `A` of `[rows, rank]`, `B` of `[rank, columns]`, in
/// fresh memory that is written once: up to a rank of 32 it takes little longer than a copy of `W`.
///
/// # Panics
///
/// On lengths that do not fit.
#[expect(unsafe_code, reason = "zeros in fresh memory would be a second pass")]
pub fn low_rank_updated<T: Real>(
    w: &[T],
    [rows, rank, columns]: [usize; 3],
    a: &[T],
    b: &[T],
    scale: T,
) -> Vec<T> {
    expect_len("w", w, rows * columns);
    expect_len("a", a, rows * rank);
    expect_len("b", b, rank * columns);
    if rank > RANK || columns == 0 {
        let mut y = w.to_vec();
        let (a, b) = (Mat::new(a, rows, rank), Mat::new(b, rank, columns));
        matmul((&mut y, columns), Onto::Present, a, b, scale);
        return y;
    }
    let scaled: Vec<T> = a.iter().map(|&a| a * scale).collect();
    let mut y = Vec::with_capacity(w.len());
    let task = rows_per_task(rows, (rank + 1) * columns).next_multiple_of(tile_rows::<T>());
    let outputs = y.spare_capacity_mut()[..w.len()].chunks_mut(task * columns);
    let inputs = w.chunks(task * columns);
    for_each(outputs.zip(inputs).enumerate(), |(at, (y, w))| {
        let start = at * task * rank;
        update(columns, rank, w, &scaled[start..], b, y);
    });
    // SAFETY: `update` initialised every number of its chunk, and the chunks cover `w.len()` of them.
    unsafe { y.set_len(w.len()) };
    y
}

simd! {
    fn update<T, const FUSED: bool>(
        columns: usize,
        rank: usize,
        w: &[T],
        a: &[T],
        b: &[T],
        y: &mut [MaybeUninit<T>],
    ) {
        // The rows of one tile: more would leave the first cache before they are updated.
        let rows = tile_rows::<T>();
        let block = rows * columns;
        for (at, (w, y)) in w.chunks(block).zip(y.chunks_mut(block)).enumerate() {
            let y = y.write_copy_of_slice(w);
            let extent = Extent { m: w.len() / columns, k: rank, n: columns };
            let a = Strided { data: &a[at * rows * rank..], row: rank, column: 1 };
            multiply_add::<T, FUSED>(extent, a, (b, columns), (y, columns));
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
        fn agrees_with_loops_in_f64(rows in 0usize..30, rank in 0usize..40, columns in 0usize..50, seed: u64) {
            let draw = |len, at: u64| narrow(&noise(len, seed ^ at));
            let (w, a, b) = (draw(rows * columns, 1), draw(rows * rank, 2), draw(rank * columns, 3));
            let mut expected = widen(&w);
            for i in 0..rows {
                for j in 0..columns {
                    for p in 0..rank {
                        expected[i * columns + j] +=
                            0.5 * f64::from(a[i * rank + p]) * f64::from(b[p * columns + j]);
                    }
                }
            }
            let shape = [rows, rank, columns];
            let bound = 2.0 * (rank + 2) as f64;
            let found = low_rank_updated(&w, shape, &a, &b, 0.5);
            assert_close(&found, &expected, |_| 2f64.powi(-24) * bound);
            let found = low_rank_updated(&widen(&w), shape, &widen(&a), &widen(&b), 0.5);
            assert_close(&found, &expected, |_| 1e-15 * bound);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let shape = [1003, 8, 917];
        let draw = |len, at| narrow(&noise(len, at));
        let (w, a, b) = (draw(1003 * 917, 1), draw(1003 * 8, 2), draw(8 * 917, 3));
        assert_thread_independent(|| low_rank_updated(&w, shape, &a, &b, 0.3));
    }
}
