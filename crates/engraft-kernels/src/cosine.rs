//! Real parts of two-dimensional Fourier transforms.

use crate::fourier::{Fourier, LANES};
use crate::parallel::{for_each, rows_per_task};
use crate::{Real, expect_len};

/// `y[i, j] = sum_(p, q) s[p, q] cos(2 pi (p i / rows + q j / cols))`, with `s` and `y` of
/// `[rows, cols]`: the real part of the two-dimensional transform of a real array.
///
/// The map is symmetric, so that it is its own backward pass. It costs
/// `rows cols (log rows + log cols)`; only the first half of the columns is transformed, the rest
/// follows from their conjugates.
///
/// # Panics
///
/// Unless both arrays have `rows cols` numbers.
pub fn cosine_sums<T: Real>(s: &[T], [rows, cols]: [usize; 2], y: &mut [T]) {
    expect_len("s", s, rows * cols);
    expect_len("y", y, rows * cols);
    if s.is_empty() {
        return;
    }
    let half = cols / 2 + 1;
    let (along, across) = (Fourier::<T>::new(cols), Fourier::<T>::new(rows));
    // Rows, [rows, half], real and imaginary.
    let (mut re, mut im) = (vec![T::ZERO; rows * half], vec![T::ZERO; rows * half]);
    let groups = rows_per_task(rows.div_ceil(LANES), along.cost() * LANES);
    let parts = re
        .chunks_mut(groups * LANES * half)
        .zip(im.chunks_mut(groups * LANES * half));
    for_each(
        s.chunks(groups * LANES * cols).zip(parts),
        |(s, (re, im))| {
            transform_rows(&along, s, cols, re, im);
        },
    );
    // Columns, [half / LANES, rows, LANES], real.
    let mut columns = vec![T::ZERO; half.div_ceil(LANES) * rows * LANES];
    let groups = rows_per_task(half.div_ceil(LANES), across.cost() * LANES);
    let tasks = columns.chunks_mut(groups * rows * LANES).enumerate();
    for_each(tasks, |(task, columns)| {
        transform_columns(&across, &re, &im, half, task * groups, columns);
    });
    let column = |i: usize, q: usize| columns[(q / LANES * rows + i) * LANES + q % LANES];
    let chunk = rows_per_task(rows, 2 * cols);
    for_each(y.chunks_mut(chunk * cols).enumerate(), |(task, y)| {
        for (i, y) in y.chunks_exact_mut(cols).enumerate() {
            let i = task * chunk + i;
            let mirrored = (rows - i) % rows;
            for (j, y) in y.iter_mut().enumerate() {
                *y = if j < half {
                    column(i, j)
                } else {
                    column(mirrored, cols - j)
                };
            }
        }
    });
}

simd! {
    fn transform_rows<T, const FUSED: bool>(
        plan: &Fourier<T>,
        s: &[T],
        cols: usize,
        re: &mut [T],
        im: &mut [T],
    ) {
        let half = cols / 2 + 1;
        let size = cols * LANES;
        let (mut x, mut y, mut spare) = (vec![T::ZERO; size], vec![T::ZERO; size], vec![T::ZERO; 2 * size]);
        let parts = re.chunks_mut(LANES * half).zip(im.chunks_mut(LANES * half));
        for (s, (re, im)) in s.chunks(LANES * cols).zip(parts) {
            x.fill(T::ZERO);
            y.fill(T::ZERO);
            for (lane, row) in s.chunks_exact(cols).enumerate() {
                for (to, &from) in x[lane..].iter_mut().step_by(LANES).zip(row) {
                    *to = from;
                }
            }
            plan.run::<FUSED>(&mut x, &mut y, &mut spare);
            for (part, to) in [(&x, re), (&y, im)] {
                for (lane, row) in to.chunks_exact_mut(half).enumerate() {
                    for (to, &from) in row.iter_mut().zip(part[lane..].iter().step_by(LANES)) {
                        *to = from;
                    }
                }
            }
        }
    }
}

simd! {
    /// Columns from `first` LANES on, of `[rows, half]`, into `[groups, rows, LANES]`.
    fn transform_columns<T, const FUSED: bool>(
        plan: &Fourier<T>,
        re: &[T],
        im: &[T],
        half: usize,
        first: usize,
        columns: &mut [T],
    ) {
        let rows = re.len() / half;
        let size = rows * LANES;
        let (mut y, mut spare) = (vec![T::ZERO; size], vec![T::ZERO; 2 * size]);
        for (group, x) in columns.chunks_exact_mut(size).enumerate() {
            let start = (first + group) * LANES;
            let width = LANES.min(half - start);
            for (part, to) in [(re, &mut *x), (im, &mut y[..])] {
                for (from, to) in part.chunks_exact(half).zip(to.chunks_exact_mut(LANES)) {
                    to[..width].copy_from_slice(&from[start..start + width]);
                }
            }
            plan.run::<FUSED>(x, &mut y, &mut spare);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn is_the_sum_of_cosines(rows in 1usize..40, cols in 1usize..40, seed: u64) {
            let s = noise(rows * cols, seed);
            let turn = |a: usize, n: usize| (a % n) as f64 / n as f64;
            let expected: Vec<f64> = (0..rows * cols)
                .map(|at| {
                    (0..rows * cols)
                        .map(|from| {
                            let turns = turn(from / cols * (at / cols), rows) + turn(from % cols * (at % cols), cols);
                            s[from] * (std::f64::consts::TAU * turns).cos()
                        })
                        .sum()
                })
                .collect();
            let mut found = vec![0.0; s.len()];
            cosine_sums(&s, [rows, cols], &mut found);
            assert_close(&found, &expected, |_| 1e-14 * (rows * cols) as f64);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let s = narrow(&noise(700 * 500, 1));
        assert_thread_independent(|| {
            let mut y = vec![0.0; s.len()];
            cosine_sums(&s, [700, 500], &mut y);
            y
        });
    }

    #[test]
    fn nothing_is_nothing() {
        cosine_sums::<f32>(&[], [0, 3], &mut []);
    }
}
