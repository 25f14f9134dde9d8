//! One shard of rows that a whole matrix shares.

use crate::parallel::{for_each, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// Work of one element, in the unit of [`rows_per_task`].
const COST: usize = 4;

/// `folded[t, i] = sum_b x[t, b r + i]`: the blocks of `r` numbers of each row of `x`, `[rows, width]`,
/// added; the last block may be shorter. `folded` is `[rows, r]`.
///
/// # Panics
///
/// Unless both arrays have the same number of rows.
pub fn fold_blocks<T: Real>(x: &[T], width: usize, folded: &mut [T], r: usize) {
    let rows = expect_rows("x", x, width);
    expect_len("folded", folded, rows * r);
    let task = rows_per_task(rows, width * COST);
    let tasks = x
        .chunks(task * width)
        .zip(folded.chunks_mut((task * r).max(1)));
    for_each(tasks, |(x, folded)| fold(x, width, folded, r));
}

/// Adds `folded` to every block of `x`: the adjoint of [`fold_blocks`], added.
///
/// # Panics
///
/// Unless both arrays have the same number of rows.
pub fn unfold_blocks<T: Real>(folded: &[T], r: usize, x: &mut [T], width: usize) {
    let rows = expect_rows("x", x, width);
    expect_len("folded", folded, rows * r);
    let task = rows_per_task(rows, width * COST);
    let tasks = x
        .chunks_mut(task * width)
        .zip(folded.chunks((task * r).max(1)));
    for_each(tasks, |(x, folded)| unfold(folded, r, x, width));
}

/// `out = W + D`, with the shard `D` of `[r, d]` repeated along both sides of `W`, `[rows, columns]`;
/// `d` divides `columns`.
///
/// # Panics
///
/// Unless all lengths are those of the shapes.
pub fn add_shard<T: Real>(w: &[T], columns: usize, shard: &[T], d: usize, out: &mut [T]) {
    let rows = expect_rows("w", w, columns);
    let r = expect_rows("shard", shard, d);
    expect_len("out", out, w.len());
    let task = rows_per_task(rows, columns * COST);
    let tasks = w.chunks(task * columns).zip(out.chunks_mut(task * columns));
    for_each(tasks.enumerate(), |(i, (w, out))| {
        let lines = w.chunks_exact(columns).zip(out.chunks_exact_mut(columns));
        for (row, (w, out)) in lines.enumerate() {
            let row = (i * task + row) % r;
            add_repeated(w, &shard[row * d..(row + 1) * d], out);
        }
    });
}

simd! {
    fn fold<T, const FUSED: bool>(x: &[T], width: usize, folded: &mut [T], r: usize) {
        for (x, folded) in x.chunks_exact(width).zip(folded.chunks_exact_mut(r)) {
            folded.fill(T::ZERO);
            for block in x.chunks(r) {
                for (sum, &x) in folded.iter_mut().zip(block) {
                    *sum += x;
                }
            }
        }
    }
}

simd! {
    fn unfold<T, const FUSED: bool>(folded: &[T], r: usize, x: &mut [T], width: usize) {
        for (x, folded) in x.chunks_exact_mut(width).zip(folded.chunks_exact(r)) {
            for block in x.chunks_mut(r) {
                for (x, &term) in block.iter_mut().zip(folded) {
                    *x += term;
                }
            }
        }
    }
}

simd! {
    fn add_repeated<T, const FUSED: bool>(w: &[T], shard: &[T], out: &mut [T]) {
        for (w, out) in w.chunks_exact(shard.len()).zip(out.chunks_exact_mut(shard.len())) {
            for ((out, &w), &shard) in out.iter_mut().zip(w).zip(shard) {
                *out = w + shard;
            }
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
        fn folding_and_unfolding_are_adjoint(rows in 0usize..20, r in 1usize..40, width in 1usize..100, seed: u64) {
            let (x, start, h) = (noise(rows * width, seed), noise(rows * width, seed ^ 1), noise(rows * r, seed ^ 2));
            let mut folded = vec![9.0; rows * r];
            fold_blocks(&x, width, &mut folded, r);
            let mut unfolded = start.clone();
            unfold_blocks(&h, r, &mut unfolded, width);
            for t in 0..rows {
                for i in 0..r {
                    let expected: f64 = (i..width).step_by(r).map(|j| x[t * width + j]).sum();
                    prop_assert!((folded[t * r + i] - expected).abs() < 1e-13);
                }
                for j in 0..width {
                    prop_assert_eq!(unfolded[t * width + j], start[t * width + j] + h[t * r + j % r]);
                }
            }
        }

        #[test]
        fn a_shard_is_repeated_along_both_sides(rows in 0usize..20, r in 1usize..9, d in 1usize..20, times in 1usize..4, seed: u64) {
            let columns = d * times;
            let (w, shard) = (noise(rows * columns, seed), noise(r * d, seed ^ 1));
            let mut out = vec![0.0; w.len()];
            add_shard(&w, columns, &shard, d, &mut out);
            for (at, (out, w)) in out.iter().zip(&w).enumerate() {
                let (row, column) = (at / columns % r, at % columns % d);
                prop_assert_eq!(*out, w + shard[row * d + column]);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x = narrow(&noise(2001 * 702, 1));
        assert_thread_independent(|| {
            let mut folded = vec![0.0; 2001 * 64];
            fold_blocks(&x, 702, &mut folded, 64);
            let (mut y, mut out) = (x.clone(), x.clone());
            unfold_blocks(&folded, 64, &mut y, 702);
            add_shard(&x, 702, &x[..78 * 5], 78, &mut out);
            [folded, y, out].concat()
        });
    }
}
