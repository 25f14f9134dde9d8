//! Products with a Kronecker product that is never formed.

use crate::parallel::{chunks_mut, for_each, reduce, rows_per_partial, rows_per_task};
use crate::product::{Extent, Strided, multiply_add, transpose, transpose_into};
use crate::{Real, expect_len, expect_rows};

/// `A (x) B` with `A` of `[m, n]` and `B` of `[p, q]`: a matrix of `[m p, n q]`.
///
/// A row `x` of `m p` numbers, read as a matrix `X` of `[m, p]`, becomes `A^T X B` of `[n, q]`,
/// read as a row: two small products in place of one with `m p n q` multiply-adds.
#[derive(Debug, Clone, Copy)]
pub struct Kron<'a, T> {
    /// Left factor, `[m, n]`.
    pub a: &'a [T],
    /// Its shape `[m, n]`.
    pub a_shape: [usize; 2],
    /// Right factor, `[p, q]`.
    pub b: &'a [T],
    /// Its shape `[p, q]`.
    pub b_shape: [usize; 2],
}

/// Rows of `X` that pass through both products while they stay in cache.
const ROWS: usize = 96;

impl<T: Real> Kron<'_, T> {
    /// `y = x (A (x) B)`, with `x` of `[tokens, m p]` and `y` of `[tokens, n q]`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn apply(&self, x: &[T], y: &mut [T]) {
        let tokens = self.check(x, y);
        let task = rows_per_task(tokens, self.cost());
        let tasks = x
            .chunks(task * self.inputs())
            .zip(y.chunks_mut(task * self.outputs()));
        for_each(tasks, |(x, y)| forward(*self, x, y));
    }

    /// Writes `gx` and returns `(gA, gB)` of [`apply`](Self::apply), from `gy` of `[tokens, n q]`.
    ///
    /// With `G` of `[n, q]` a row of `gy`: `gX = A G B^T`, `gA = sum X B G^T`, `gB = sum X^T A G`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn backward(&self, x: &[T], gy: &[T], gx: &mut [T]) -> (Vec<T>, Vec<T>) {
        let tokens = self.check(x, gy);
        expect_len("gx", gx, x.len());
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let task = rows_per_partial(tokens, 3 * self.cost());
        let chunks = chunks_mut(gx, task * inputs);
        let len = self.a.len() + self.b.len();
        let b_transposed = transpose(self.b, self.b_shape[1]);
        let mut ga = reduce(tokens, task, len, chunks, |range, sums, gx| {
            let x = &x[range.start * inputs..range.end * inputs];
            let gy = &gy[range.start * outputs..range.end * outputs];
            let (ga, gb) = sums.split_at_mut(self.a.len());
            backward(*self, &b_transposed, [x, gy], gx, [ga, gb]);
        });
        let gb = ga.split_off(self.a.len());
        (ga, gb)
    }

    /// Length of an input row, `m p`.
    pub fn inputs(&self) -> usize {
        self.a_shape[0] * self.b_shape[0]
    }

    /// Length of an output row, `n q`.
    pub fn outputs(&self) -> usize {
        self.a_shape[1] * self.b_shape[1]
    }

    /// Multiply-adds of a row if `B` comes first, and if `A` comes first.
    fn costs(&self) -> [usize; 2] {
        let ([m, n], [p, q]) = (self.a_shape, self.b_shape);
        [m * p * q + m * n * q, m * n * p + n * p * q]
    }

    fn cost(&self) -> usize {
        self.costs()[0].min(self.costs()[1])
    }

    #[track_caller]
    fn check(&self, x: &[T], y: &[T]) -> usize {
        expect_len("a", self.a, self.a_shape[0] * self.a_shape[1]);
        expect_len("b", self.b, self.b_shape[0] * self.b_shape[1]);
        let tokens = expect_rows("x", x, self.inputs());
        assert!(
            self.outputs() > 0,
            "outputs: found rows of width 0, expected at least 1"
        );
        expect_len("y", y, tokens * self.outputs());
        tokens
    }
}

/// `out[i] += matrix in[i]` for each of a run of matrices, `in[i]` of `[rows, columns]`.
#[inline(always)]
fn left_multiply<T: Real, const FUSED: bool>(
    matrix: Strided<'_, T>,
    [out_rows, rows, columns]: [usize; 3],
    input: &[T],
    output: &mut [T],
) {
    let extent = Extent {
        m: out_rows,
        k: rows,
        n: columns,
    };
    let pairs = input
        .chunks_exact(rows * columns)
        .zip(output.chunks_exact_mut(out_rows * columns));
    for (input, output) in pairs {
        multiply_add::<T, FUSED>(extent, matrix, (input, columns), (output, columns));
    }
}

/// `out = in matrix` with `in` of `[rows, k]` and `matrix` of `[k, n]`, added to `out`.
#[inline(always)]
fn right_multiply<T: Real, const FUSED: bool>(
    matrix: &[T],
    [k, n]: [usize; 2],
    input: &[T],
    output: &mut [T],
) {
    let extent = Extent {
        m: input.len() / k,
        k,
        n,
    };
    let input = Strided {
        data: input,
        row: k,
        column: 1,
    };
    multiply_add::<T, FUSED>(extent, input, (matrix, n), (output, n));
}

simd! {
    fn forward<T, const FUSED: bool>(kron: Kron<'_, T>, x: &[T], y: &mut [T]) {
        let ([m, n], [p, q]) = (kron.a_shape, kron.b_shape);
        let a_transposed = Strided { data: kron.a, row: 1, column: n };
        let tokens = ROWS.div_ceil(m.max(n));
        let [b_first, a_first] = kron.costs();
        let mut between = vec![T::ZERO; tokens * (m * q).max(n * p)];
        let runs = x.chunks(tokens * m * p).zip(y.chunks_mut(tokens * n * q));
        for (x, y) in runs {
            let count = x.len() / (m * p);
            y.fill(T::ZERO);
            if b_first <= a_first {
                let between = &mut between[..count * m * q];
                between.fill(T::ZERO);
                right_multiply::<T, FUSED>(kron.b, [p, q], x, between);
                left_multiply::<T, FUSED>(a_transposed, [n, m, q], between, y);
            } else {
                let between = &mut between[..count * n * p];
                between.fill(T::ZERO);
                left_multiply::<T, FUSED>(a_transposed, [n, m, p], x, between);
                right_multiply::<T, FUSED>(kron.b, [p, q], between, y);
            }
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(
        kron: Kron<'_, T>, b_transposed: &[T], given: [&[T]; 2], gx: &mut [T], sums: [&mut [T]; 2],
    ) {
        let ([m, n], [p, q]) = (kron.a_shape, kron.b_shape);
        let ([x, gy], [ga, gb]) = (given, sums);
        let tokens = ROWS.div_ceil(m.max(n));
        // A^T X, then G B^T, both of [n, p] a token.
        let mut between = vec![T::ZERO; tokens * n * p];
        let mut transposed = vec![T::ZERO; n * p];
        let runs = x.chunks(tokens * m * p).zip(gy.chunks(tokens * n * q));
        for ((x, gy), gx) in runs.zip(gx.chunks_mut(tokens * m * p)) {
            let count = x.len() / (m * p);
            let between = &mut between[..count * n * p];
            between.fill(T::ZERO);
            let a_transposed = Strided { data: kron.a, row: 1, column: n };
            left_multiply::<T, FUSED>(a_transposed, [n, m, p], x, between);
            let extent = Extent { m: p, k: count * n, n: q };
            let columns = Strided { data: &*between, row: 1, column: p };
            multiply_add::<T, FUSED>(extent, columns, (gy, q), (&mut *gb, q));

            between.fill(T::ZERO);
            right_multiply::<T, FUSED>(b_transposed, [q, p], gy, between);
            gx.fill(T::ZERO);
            let a = Strided { data: kron.a, row: n, column: 1 };
            left_multiply::<T, FUSED>(a, [m, n, p], between, gx);
            for (x, between) in x.chunks_exact(m * p).zip(between.chunks_exact(n * p)) {
                transpose_into(between, p, &mut transposed);
                let rows = Strided { data: x, row: p, column: 1 };
                multiply_add::<T, FUSED>(Extent { m, k: p, n }, rows, (&transposed, n), (&mut *ga, n));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    /// `(y, gx, gA, gB)` by the definition: entry `(i p + k, j q + l)` is `A[i, j] B[k, l]`.
    fn reference(kron: Kron<'_, f64>, x: &[f64], gy: &[f64]) -> [Vec<f64>; 4] {
        let ([m, n], [p, q]) = (kron.a_shape, kron.b_shape);
        let mut out = [gy.len(), x.len(), m * n, p * q].map(|len| vec![0.0; len]);
        for (t, x) in x.chunks(m * p).enumerate() {
            for (row, &x) in x.iter().enumerate() {
                for column in 0..n * q {
                    let (i, k, j, l) = (row / p, row % p, column / q, column % q);
                    let (a, b, g) = (kron.a[i * n + j], kron.b[k * q + l], gy[t * n * q + column]);
                    out[0][t * n * q + column] += x * a * b;
                    out[1][t * m * p + row] += g * a * b;
                    out[2][i * n + j] += x * b * g;
                    out[3][k * q + l] += x * a * g;
                }
            }
        }
        out
    }

    fn products<T: Real>(kron: Kron<'_, T>, x: &[T], gy: &[T]) -> [Vec<T>; 4] {
        let (mut y, mut gx) = (vec![T::ZERO; gy.len()], vec![T::ZERO; x.len()]);
        kron.apply(x, &mut y);
        let (ga, gb) = kron.backward(x, gy, &mut gx);
        [y, gx, ga, gb]
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            tokens in 0usize..40, [m, n, p, q] in [1usize..8, 1usize..8, 1usize..20, 1usize..20], seed: u64,
        ) {
            let (a, b) = (narrow(&noise(m * n, seed)), narrow(&noise(p * q, seed ^ 1)));
            let (x, gy) = (narrow(&noise(tokens * m * p, seed ^ 2)), narrow(&noise(tokens * n * q, seed ^ 3)));
            let (a_shape, b_shape) = ([m, n], [p, q]);
            let (wide_a, wide_b) = (widen(&a), widen(&b));
            let wide = Kron { a: &wide_a, a_shape, b: &wide_b, b_shape };
            let expected = reference(wide, &widen(&x), &widen(&gy));
            let terms = [m * p, n * q, tokens * p * q, tokens * m * n].map(|n| (n + 4) as f64);
            let found = products(Kron { a: &a, a_shape, b: &b, b_shape }, &x, &gy);
            for ((found, expected), terms) in found.iter().zip(&expected).zip(terms) {
                assert_close(found, expected, |_| 2f64.powi(-24) * terms);
            }
            for ((found, expected), terms) in products(wide, &widen(&x), &widen(&gy)).iter().zip(&expected).zip(terms) {
                assert_close(found, expected, |_| 2f64.powi(-53) * 2.0 * terms);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (a, b) = (narrow(&noise(5 * 7, 1)), narrow(&noise(19 * 23, 2)));
        let (x, gy) = (narrow(&noise(1501 * 95, 3)), narrow(&noise(1501 * 161, 4)));
        let kron = Kron {
            a: &a,
            a_shape: [5, 7],
            b: &b,
            b_shape: [19, 23],
        };
        assert_thread_independent(|| products(kron, &x, &gy).concat());
    }

    #[test]
    #[should_panic(expected = "b: found 3 numbers, expected 4")]
    fn lengths_are_checked() {
        let kron = Kron {
            a: &[1.0f32],
            a_shape: [1, 1],
            b: &[1.0; 3],
            b_shape: [2, 2],
        };
        kron.apply(&[0.0; 2], &mut [0.0; 2]);
    }
}
