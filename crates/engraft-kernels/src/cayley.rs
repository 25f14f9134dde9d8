//! Rotations from skew-symmetric matrices, in batches of small blocks.

use crate::parallel::{for_each, rows_per_task};
use crate::product::{Extent, Strided, accumulate, transpose_into};
use crate::{Real, expect_len, expect_rows};

/// Rotations `R` of side `b` from skew-symmetric `Q`, one from each row of an array of values.
///
/// Exactly, `R = (I - Q)(I + Q)^-1 = 2 (I + Q)^-1 - I`, or by the truncated series
/// `R = I + 2 Q + ... + 2 Q^(k-2) + Q^(k-1)` (Qiu et al., arXiv 2306.07280, section 3.2; its
/// inverse rotation as PEFT truncates it). Both cost `O(b^3)` a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotations {
    /// Side `b`.
    pub size: usize,
    /// Whether values are strictly upper triangles row by row, `b (b - 1) / 2` each, and
    /// `Q = U - U^T`; otherwise whole matrices `A`, and `Q = (A - A^T) / 2`.
    pub packed: bool,
    /// Highest power `k - 1` of the series, 1 or at least 3; exact if there is none.
    pub last_power: Option<usize>,
}

impl Rotations {
    /// Values of one block.
    pub fn width(self) -> usize {
        let b = self.size;
        if self.packed { b * (b - 1) / 2 } else { b * b }
    }

    /// Writes the rotations of all rows of `values`, `[n, b, b]`.
    ///
    /// # Panics
    ///
    /// Unless `values` is `[n, width]` and `r` as long as the result.
    pub fn apply<T: Real>(self, values: &[T], r: &mut [T]) {
        let n = expect_rows("values", values, self.width());
        expect_len("r", r, n * self.size * self.size);
        let task = self.blocks_per_task(n);
        let tasks = values
            .chunks(task * self.width())
            .zip(r.chunks_mut(task * self.size * self.size));
        for_each(tasks, |(values, r)| forward(self, values, r));
    }

    /// Writes the gradient of the values of exact rotations from the rotations and their gradient:
    /// that of `Q` is `-(R + I)^T gR (R + I)^T / 2`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of [`apply`](Self::apply).
    pub fn backward_exact<T: Real>(self, r: &[T], gr: &[T], gvalues: &mut [T]) {
        let square = self.size * self.size;
        let task = self.check_backward(gr, gvalues);
        expect_len("r", r, gr.len());
        let tasks = r.chunks(task * square).zip(gr.chunks(task * square));
        for_each(
            tasks.zip(gvalues.chunks_mut(task * self.width())),
            |((r, gr), gvalues)| exact_backward(self, r, gr, gvalues),
        );
    }

    /// Writes the gradient of the values of the series from the values and the gradient of the
    /// rotations.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of [`apply`](Self::apply).
    pub fn backward_series<T: Real>(self, values: &[T], gr: &[T], gvalues: &mut [T]) {
        let task = self.check_backward(gr, gvalues);
        expect_len("values", values, gvalues.len());
        let tasks = values
            .chunks(task * self.width())
            .zip(gr.chunks(task * self.size * self.size));
        for_each(
            tasks.zip(gvalues.chunks_mut(task * self.width())),
            |((values, gr), gvalues)| series_backward(self, values, gr, gvalues),
        );
    }

    /// Blocks of one task.
    #[track_caller]
    fn check_backward<T>(self, gr: &[T], gvalues: &[T]) -> usize {
        let n = expect_rows("gvalues", gvalues, self.width());
        expect_len("gr", gr, n * self.size * self.size);
        self.blocks_per_task(n)
    }

    fn blocks_per_task(self, n: usize) -> usize {
        rows_per_task(n, 4 * self.size.pow(3))
    }

    /// Writes `Q` of one block.
    fn skew<T: Real>(self, values: &[T], q: &mut [T]) {
        let b = self.size;
        let half = T::from_f64(0.5);
        let mut packed = values.iter();
        for i in 0..b {
            q[i * b + i] = T::ZERO;
            for j in i + 1..b {
                let value = match self.packed {
                    true => *packed.next().expect("one value for each pair"),
                    false => half * (values[i * b + j] - values[j * b + i]),
                };
                (q[i * b + j], q[j * b + i]) = (value, -value);
            }
        }
    }

    /// Writes the gradient of the values of one block from that of `Q`.
    fn skew_backward<T: Real>(self, gq: &[T], gvalues: &mut [T]) {
        let b = self.size;
        let half = T::from_f64(0.5);
        let mut place = 0;
        for i in 0..b {
            if !self.packed {
                gvalues[i * b + i] = T::ZERO;
            }
            for j in i + 1..b {
                let value = gq[i * b + j] - gq[j * b + i];
                if self.packed {
                    gvalues[place] = value;
                    place += 1;
                } else {
                    (gvalues[i * b + j], gvalues[j * b + i]) = (half * value, -(half * value));
                }
            }
        }
    }
}

/// Adds `value` to the diagonal of a square matrix of side `b`.
fn shift<T: Real>(matrix: &mut [T], b: usize, value: T) {
    matrix
        .iter_mut()
        .step_by(b + 1)
        .for_each(|entry| *entry += value);
}

/// `c = x y`, all of side `b`.
fn product<T: Real>(b: usize, x: &[T], y: &[T], c: &mut [T]) {
    c.fill(T::ZERO);
    let x = Strided {
        data: x,
        row: b,
        column: 1,
    };
    accumulate(Extent { m: b, k: b, n: b }, x, (y, b), (c, b));
}

simd! {
    /// Inverts a matrix of side `b` in place, without pivoting: its symmetric part is the identity,
    /// and so no pivot is below 1.
    fn invert<T, const FUSED: bool>(m: &mut [T], b: usize, row: &mut [T]) {
        for k in 0..b {
            let pivot = T::ONE / m[k * b + k];
            m[k * b + k] = T::ONE;
            for (kept, entry) in row.iter_mut().zip(&mut m[k * b..(k + 1) * b]) {
                *entry *= pivot;
                *kept = *entry;
            }
            for (i, line) in m.chunks_exact_mut(b).enumerate() {
                if i != k {
                    let factor = -std::mem::replace(&mut line[k], T::ZERO);
                    for (entry, &kept) in line.iter_mut().zip(&*row) {
                        *entry = factor.mul_add::<FUSED>(kept, *entry);
                    }
                }
            }
        }
    }
}

/// The factors `S` of the series by Horner's rule, `[levels, b, b]`: `R = I + Q S` of the last,
/// each `2 I + Q S` of the one before, and the first `2 I + Q`, or `2 I` for a series of two terms.
fn horner<T: Real>(b: usize, q: &[T], last_power: usize, levels: &mut [T]) {
    let two = T::from_f64(2.0);
    if last_power > 1 {
        levels[..b * b].copy_from_slice(q);
    } else {
        levels[..b * b].fill(T::ZERO);
    }
    shift(&mut levels[..b * b], b, two);
    for level in 1..levels.len() / (b * b) {
        let (before, after) = levels.split_at_mut(level * b * b);
        product(b, q, &before[(level - 1) * b * b..], &mut after[..b * b]);
        shift(&mut after[..b * b], b, two);
    }
}

fn forward<T: Real>(shape: Rotations, values: &[T], r: &mut [T]) {
    let b = shape.size;
    let square = b * b;
    let mut q = vec![T::ZERO; square];
    let mut levels = vec![T::ZERO; shape.last_power.map_or(0, |last| levels(last) * square)];
    let mut inverse = vec![
        0.0f64;
        if shape.last_power.is_none() {
            square + b
        } else {
            0
        }
    ];
    for (values, r) in values
        .chunks_exact(shape.width())
        .zip(r.chunks_exact_mut(square))
    {
        shape.skew(values, &mut q);
        if let Some(last) = shape.last_power {
            horner(b, &q, last, &mut levels);
            product(b, &q, &levels[levels.len() - square..], r);
            shift(r, b, T::ONE);
        } else {
            let (inverse, row) = inverse.split_at_mut(square);
            for (entry, q) in inverse.iter_mut().zip(&q) {
                *entry = q.to_f64();
            }
            shift(inverse, b, 1.0);
            invert::<f64>(inverse, b, row);
            inverse.iter_mut().for_each(|entry| *entry *= 2.0);
            shift(inverse, b, -1.0);
            for (entry, value) in r.iter_mut().zip(&*inverse) {
                *entry = T::from_f64(*value);
            }
        }
    }
}

/// Factors of Horner's rule.
fn levels(last_power: usize) -> usize {
    last_power.saturating_sub(1).max(1)
}

fn exact_backward<T: Real>(shape: Rotations, r: &[T], gr: &[T], gvalues: &mut [T]) {
    let b = shape.size;
    let square = b * b;
    let mut scratch = vec![T::ZERO; 3 * square];
    let (turned, rest) = scratch.split_at_mut(square);
    let (next, gq) = rest.split_at_mut(square);
    let half = T::from_f64(-0.5);
    let blocks = r.chunks_exact(square).zip(gr.chunks_exact(square));
    for ((r, gr), gvalues) in blocks.zip(gvalues.chunks_exact_mut(shape.width())) {
        transpose_into(r, b, turned);
        shift(turned, b, T::ONE);
        product(b, turned, gr, next);
        product(b, next, turned, gq);
        gq.iter_mut().for_each(|gq| *gq = half * *gq);
        shape.skew_backward(gq, gvalues);
    }
}

fn series_backward<T: Real>(shape: Rotations, values: &[T], gr: &[T], gvalues: &mut [T]) {
    let b = shape.size;
    let square = b * b;
    let last = shape.last_power.unwrap_or(1);
    let mut scratch = vec![T::ZERO; (5 + levels(last)) * square];
    let (q, rest) = scratch.split_at_mut(square);
    let (gq, rest) = rest.split_at_mut(square);
    let (turned, rest) = rest.split_at_mut(square);
    let (next, rest) = rest.split_at_mut(square);
    let (g, levels) = rest.split_at_mut(square);
    let width = shape.width();
    let blocks = values.chunks_exact(width).zip(gr.chunks_exact(square));
    for ((values, gr), gvalues) in blocks.zip(gvalues.chunks_exact_mut(width)) {
        shape.skew(values, q);
        horner(b, q, last, levels);
        gq.fill(T::ZERO);
        g.copy_from_slice(gr);
        for level in levels.chunks_exact(square).rev() {
            // Of Q S + c I: gQ += g S^T, gS = Q^T g.
            transpose_into(level, b, turned);
            let rows = Strided {
                data: g,
                row: b,
                column: 1,
            };
            accumulate(Extent { m: b, k: b, n: b }, rows, (turned, b), (gq, b));
            product(b, q, g, next);
            g.iter_mut().zip(&*next).for_each(|(g, &next)| *g = -next);
        }
        if last > 1 {
            gq.iter_mut().zip(&*g).for_each(|(gq, &g)| *gq += g);
        }
        shape.skew_backward(gq, gvalues);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, slope, widen};
    use proptest::prelude::*;

    fn rotations<T: Real>(shape: Rotations, values: &[T]) -> Vec<T> {
        let mut r = vec![T::ZERO; values.len() / shape.width() * shape.size * shape.size];
        shape.apply(values, &mut r);
        r
    }

    fn backward<T: Real>(shape: Rotations, [values, r]: [&[T]; 2], gr: &[T], gvalues: &mut [T]) {
        match shape.last_power {
            Some(_) => shape.backward_series(values, gr, gvalues),
            None => shape.backward_exact(r, gr, gvalues),
        }
    }

    fn shapes() -> impl Strategy<Value = Rotations> {
        let last_power = prop_oneof![Just(None), Just(Some(1)), (3usize..7).prop_map(Some)];
        (2usize..20, any::<bool>(), last_power).prop_map(|(size, packed, last_power)| Rotations {
            size,
            packed,
            last_power,
        })
    }

    proptest! {
        #[test]
        fn exact_rotations_are_orthogonal_to_rounding(n in 1usize..5, size in 2usize..40, packed: bool, scale in 0.1f64..20.0, seed: u64) {
            let shape = Rotations { size, packed, last_power: None };
            let values: Vec<f64> = noise(n * shape.width(), seed).into_iter().map(|v| scale * v).collect();
            let orthogonal = |r: &[f64], tolerance: f64| {
                for r in r.chunks_exact(size * size) {
                    for (i, a) in r.chunks_exact(size).enumerate() {
                        for (j, b) in r.chunks_exact(size).enumerate() {
                            let inner: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                            assert!((inner - f64::from(u8::from(i == j))).abs() < tolerance);
                        }
                    }
                }
            };
            let condition = 1.0 + scale * size as f64;
            orthogonal(&rotations(shape, &values), 1e-15 * condition);
            // Inverted in double precision, rounded once: no condition.
            orthogonal(&widen(&rotations(shape, &narrow(&values))), 4e-7);
        }

        #[test]
        fn the_series_is_the_sum_of_powers(shape in shapes(), seed: u64) {
            let Some(last) = shape.last_power else { return Ok(()) };
            let (b, values) = (shape.size, noise(shape.width(), seed));
            let mut q = vec![0.0; b * b];
            shape.skew(&values, &mut q);
            let mut power: Vec<f64> = (0..b * b).map(|at| f64::from(u8::from(at % (b + 1) == 0))).collect();
            let mut sum = power.clone();
            for exponent in 1..=last {
                power = (0..b * b).map(|at| (0..b).map(|k| power[at / b * b + k] * q[k * b + at % b]).sum()).collect();
                let weight = if exponent == last && last > 1 { 1.0 } else { 2.0 };
                sum.iter_mut().zip(&power).for_each(|(sum, power)| *sum += weight * power);
            }
            let largest = power.iter().chain(&sum).fold(1.0f64, |a, b| a.max(b.abs()));
            assert_close(&rotations(shape, &values), &sum, |_| 1e-14 * largest * b as f64);
        }

        #[test]
        fn gradients_are_slopes(shape in shapes(), n in 1usize..3, seed: u64) {
            let values: Vec<f64> = noise(n * shape.width(), seed).into_iter().map(|v| 0.3 * v).collect();
            let r = rotations(shape, &values);
            let gr = noise(r.len(), !seed);
            let mut found = vec![0.0; values.len()];
            backward(shape, [&values, &r], &gr, &mut found);
            let expected = slope(&values, &gr, |values| rotations(shape, values));
            let scale = 1.0 + expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert_close(&found, &expected, |_| 1e-5 * scale * shape.size as f64);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        for last_power in [None, Some(4)] {
            let shape = Rotations {
                size: 17,
                packed: true,
                last_power,
            };
            let (values, gr) = (
                narrow(&noise(300 * shape.width(), 1)),
                narrow(&noise(300 * 17 * 17, 2)),
            );
            assert_thread_independent(|| {
                let r = rotations(shape, &values);
                let mut gradient = vec![0.0; values.len()];
                backward(shape, [&values, &r], &gr, &mut gradient);
                [r, gradient].concat()
            });
        }
    }
}
