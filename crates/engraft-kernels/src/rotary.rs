//! Rotary position embeddings.

use crate::parallel::{for_each, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// Work of one number, in the unit of [`rows_per_task`].
const COST: usize = 4;

/// Which way pairs are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// By the angle.
    Forward,
    /// By minus the angle: the transposed map.
    Backward,
}

/// Turns pairs of numbers: with `h = half` and `c`, `s` the numbers of `cos` and `sin` for a row,
/// `y_j = c_j x_j - s_j x_(j + h)` and `y_(j + h) = c_j x_(j + h) + s_j x_j` in each head.
///
/// Su et al., arXiv 2104.09864, equation 34, with the pairs of GPT-NeoX and Llama. `x` and `y` are
/// `[rows, heads, 2 half]`, `cos` and `sin` are `[angles, half]`; row `i` takes the angles
/// `i mod angles`. 3 flops a number.
///
/// # Panics
///
/// Unless the lengths are those of the shapes and the rows are a multiple of the angles.
pub fn turn_pairs<T: Real>(
    x: &[T],
    [cos, sin]: [&[T]; 2],
    [heads, half]: [usize; 2],
    turn: Turn,
    y: &mut [T],
) {
    let width = 2 * half * heads;
    expect_len("y", y, x.len());
    expect_len("sin", sin, cos.len());
    let (rows, angles) = (expect_rows("x", x, width), expect_rows("cos", cos, half));
    assert!(
        rows == 0 || angles > 0 && rows.is_multiple_of(angles),
        "found {rows} rows, expected a multiple of the {angles} angles"
    );
    let task = rows_per_task(rows, width * COST);
    let tasks = x.chunks(task * width).zip(y.chunks_mut(task * width));
    for_each(tasks.enumerate(), |(index, (x, y))| {
        let lines = x.chunks(width).zip(y.chunks_mut(width));
        for (row, (x, y)) in lines.enumerate() {
            let at = (index * task + row) % angles * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            match turn {
                Turn::Forward => turned(x, cos, sin, T::ONE, y),
                Turn::Backward => turned(x, cos, sin, -T::ONE, y),
            }
        }
    });
}

simd! {
    fn turned<T, const FUSED: bool>(x: &[T], cos: &[T], sin: &[T], sign: T, y: &mut [T]) {
        let half = cos.len();
        for (x, y) in x.chunks(2 * half).zip(y.chunks_mut(2 * half)) {
            let (x1, x2) = x.split_at(half);
            let (y1, y2) = y.split_at_mut(half);
            let angles = cos.iter().zip(sin);
            for (((&x1, &x2), (y1, y2)), (&c, &s)) in
                x1.iter().zip(x2).zip(y1.iter_mut().zip(y2)).zip(angles)
            {
                let s = s * sign;
                *y1 = c * x1 - s * x2;
                *y2 = c * x2 + s * x1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};

    /// The rotation of one pair, by complex multiplication.
    fn expected(x: &[f64], angles: &[f64], heads: usize, half: usize) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        for (at, y) in y.iter_mut().enumerate() {
            let (place, row) = (at % (2 * half), at / (2 * half * heads));
            let j = place % half;
            let (sin, cos) = angles[row * half % angles.len() + j].sin_cos();
            *y = match place < half {
                true => cos * x[at] - sin * x[at + half],
                false => cos * x[at] + sin * x[at - half],
            };
        }
        y
    }

    #[test]
    fn pairs_are_turned_by_the_angle_of_their_row_and_back() {
        for [batch, tokens, heads, half] in [[1, 1, 1, 1], [2, 3, 2, 5], [3, 4, 1, 17]] {
            let x = noise(batch * tokens * heads * 2 * half, 1);
            let angles: Vec<f64> = noise(tokens * half, 2).iter().map(|a| 9.0 * a).collect();
            let cos: Vec<f64> = angles.iter().map(|angle| angle.cos()).collect();
            let sin: Vec<f64> = angles.iter().map(|angle| angle.sin()).collect();
            let mut y = vec![0.0; x.len()];
            turn_pairs(&x, [&cos, &sin], [heads, half], Turn::Forward, &mut y);
            assert_close(&y, &expected(&x, &angles, heads, half), |_| 1e-14);
            let mut back = vec![0.0; x.len()];
            turn_pairs(&y, [&cos, &sin], [heads, half], Turn::Backward, &mut back);
            assert_close(&back, &x, |_| 1e-14);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, angles) = (
            narrow(&noise(64 * 3 * 2 * 8192, 3)),
            narrow(&noise(32 * 8192, 4)),
        );
        assert_thread_independent(|| {
            let mut y = vec![0.0; x.len()];
            turn_pairs(&x, [&angles, &angles], [3, 8192], Turn::Forward, &mut y);
            y
        });
    }
}
