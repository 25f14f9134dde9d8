//! Products with a Kronecker product that is never formed.

use crate::parallel::{for_each, reduce, rows_per_partial, rows_per_task};
use crate::product::{Extent, Strided, multiply_add, transpose, transpose_into};
use crate::{Real, expect_len, expect_rows};

/// `sum_k A_k (x) B_k` with `A_k` of `[m, n]` and `B_k` of `[p, q]`: a matrix of `[m p, n q]`.
///
/// A row `x` of `m p` numbers, read as a matrix `X` of `[m, p]`, becomes `sum_k A_k^T X B_k` of
/// `[n, q]`, read as a row: two small products a term in place of one with `m p n q` multiply-adds.
#[derive(Debug, Clone, Copy)]
pub struct Kron<'a, T> {
    /// Left factors, `[terms, m, n]`.
    pub a: &'a [T],
    /// Their shape `[m, n]`.
    pub a_shape: [usize; 2],
    /// Right factors, `[terms, p, q]`.
    pub b: &'a [T],
    /// Their shape `[p, q]`.
    pub b_shape: [usize; 2],
}

/// Rows of `X` that pass through both products while they stay in cache.
const ROWS: usize = 96;

impl<T: Real> Kron<'_, T> {
    /// `y += x (sum_k A_k (x) B_k)`, with `x` of `[tokens, m p]` and `y` of `[tokens, n q]`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn add(&self, x: &[T], y: &mut [T]) {
        let tokens = self.check(x, y);
        let task = rows_per_task(tokens, self.cost());
        let tasks = x
            .chunks(task * self.inputs())
            .zip(y.chunks_mut(task * self.outputs()));
        for_each(tasks, |(x, y)| forward(*self, x, y));
    }

    /// `(gA, gB)` of [`add`](Self::add) from `gy` of `[tokens, n q]`; adds the gradient of `x` to `gx`
    /// where it is wanted.
    ///
    /// With `G` of `[n, q]` a row of `gy`: `gX = sum_k A_k G B_k^T`, `gA_k = sum X B_k G^T`,
    /// `gB_k = sum X^T A_k G`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn backward(&self, x: &[T], gy: &[T], gx: Option<&mut [T]>) -> (Vec<T>, Vec<T>) {
        let tokens = self.check(x, gy);
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let task = rows_per_partial(tokens, 3 * self.cost());
        let mut chunks: Vec<&mut [T]> = match gx {
            Some(gx) => {
                expect_len("gx", gx, x.len());
                gx.chunks_mut(task * inputs).collect()
            }
            None => Vec::new(),
        };
        chunks.resize_with(tokens.div_ceil(task).max(1), Default::default);
        let len = self.a.len() + self.b.len();
        let ([_, _], [p, q]) = (self.a_shape, self.b_shape);
        let b_transposed: Vec<T> = self
            .b
            .chunks((p * q).max(1))
            .flat_map(|b| transpose(b, q))
            .collect();
        let mut ga = reduce(tokens, task, len, chunks.into_iter(), |range, sums, gx| {
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

    /// Number of terms.
    pub(crate) fn terms(&self) -> usize {
        self.a.len() / (self.a_shape[0] * self.a_shape[1]).max(1)
    }

    /// The factors of every term.
    #[inline(always)]
    pub(crate) fn factors(&self) -> impl Iterator<Item = (&[T], &[T])> {
        let ([m, n], [p, q]) = (self.a_shape, self.b_shape);
        self.a.chunks_exact(m * n).zip(self.b.chunks_exact(p * q))
    }

    /// Multiply-adds of a row and term if `B` comes first, and if `A` comes first.
    fn costs(&self) -> [usize; 2] {
        let ([m, n], [p, q]) = (self.a_shape, self.b_shape);
        [m * p * q + m * n * q, m * n * p + n * p * q]
    }

    fn cost(&self) -> usize {
        self.costs()[0].min(self.costs()[1]) * self.terms().max(1)
    }

    #[track_caller]
    pub(crate) fn check(&self, x: &[T], y: &[T]) -> usize {
        let terms = self.terms();
        expect_len("a", self.a, terms * self.a_shape[0] * self.a_shape[1]);
        expect_len("b", self.b, terms * self.b_shape[0] * self.b_shape[1]);
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
        let tokens = ROWS.div_ceil(m.max(n));
        let [b_first, a_first] = kron.costs();
        let mut between = vec![T::ZERO; tokens * (m * q).max(n * p)];
        let runs = x.chunks(tokens * m * p).zip(y.chunks_mut(tokens * n * q));
        for (x, y) in runs {
            let count = x.len() / (m * p);
            for (a, b) in kron.factors() {
                let a_transposed = Strided { data: a, row: 1, column: n };
                if b_first <= a_first {
                    let between = &mut between[..count * m * q];
                    between.fill(T::ZERO);
                    right_multiply::<T, FUSED>(b, [p, q], x, between);
                    left_multiply::<T, FUSED>(a_transposed, [n, m, q], between, y);
                } else {
                    let between = &mut between[..count * n * p];
                    between.fill(T::ZERO);
                    left_multiply::<T, FUSED>(a_transposed, [n, m, p], x, between);
                    right_multiply::<T, FUSED>(b, [p, q], between, y);
                }
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
        let mut chunks = gx.chunks_mut(tokens * m * p);
        for (x, gy) in x.chunks(tokens * m * p).zip(gy.chunks(tokens * n * q)) {
            let gx = chunks.next();
            let gx = gx.unwrap_or_default();
            let count = x.len() / (m * p);
            let between = &mut between[..count * n * p];
            let parts = ga.chunks_exact_mut(m * n).zip(gb.chunks_exact_mut(p * q));
            let factors = kron.a.chunks_exact(m * n).zip(b_transposed.chunks_exact(p * q));
            for ((a, b_transposed), (ga, gb)) in factors.zip(parts) {
                between.fill(T::ZERO);
                let a_transposed = Strided { data: a, row: 1, column: n };
                left_multiply::<T, FUSED>(a_transposed, [n, m, p], x, between);
                let extent = Extent { m: p, k: count * n, n: q };
                let columns = Strided { data: &*between, row: 1, column: p };
                multiply_add::<T, FUSED>(extent, columns, (gy, q), (&mut *gb, q));

                between.fill(T::ZERO);
                right_multiply::<T, FUSED>(b_transposed, [q, p], gy, between);
                if !gx.is_empty() {
                    let a = Strided { data: a, row: n, column: 1 };
                    left_multiply::<T, FUSED>(a, [m, n, p], between, gx);
                }
                for (x, between) in x.chunks_exact(m * p).zip(between.chunks_exact(n * p)) {
                    transpose_into(between, p, &mut transposed);
                    let rows = Strided { data: x, row: p, column: 1 };
                    multiply_add::<T, FUSED>(Extent { m, k: p, n }, rows, (&transposed, n), (&mut *ga, n));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kron_matrix::tests::reference;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    /// `[rows, k]` times `[k, columns]`, either of them transposed.
    fn product(
        a: &[f64],
        b: &[f64],
        [rows, k, columns]: [usize; 3],
        [ta, tb]: [bool; 2],
    ) -> Vec<f64> {
        let mut c = vec![0.0; rows * columns];
        for (at, c) in c.iter_mut().enumerate() {
            let (i, j) = (at / columns, at % columns);
            for t in 0..k {
                *c += a[if ta { t * rows + i } else { i * k + t }]
                    * b[if tb { j * k + t } else { t * columns + j }];
            }
        }
        c
    }

    fn products<T: Real>(kron: Kron<'_, T>, x: &[T], gy: &[T]) -> [Vec<T>; 4] {
        let (mut y, mut gx) = (gy.to_vec(), x.to_vec());
        kron.add(x, &mut y);
        let (ga, gb) = kron.backward(x, gy, Some(&mut gx));
        assert!(kron.backward(x, gy, None) == (ga.clone(), gb.clone()));
        [y, gx, ga, gb]
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            tokens in 0usize..40, terms in 1usize..4,
            [m, n, p, q] in [1usize..8, 1usize..8, 1usize..20, 1usize..20], seed: u64,
        ) {
            let (a, b) = (narrow(&noise(terms * m * n, seed)), narrow(&noise(terms * p * q, seed ^ 1)));
            let (x, gy) = (narrow(&noise(tokens * m * p, seed ^ 2)), narrow(&noise(tokens * n * q, seed ^ 3)));
            let (a_shape, b_shape) = ([m, n], [p, q]);
            let (wide_a, wide_b, wide_x, wide_gy) = (widen(&a), widen(&b), widen(&x), widen(&gy));
            let wide = Kron { a: &wide_a, a_shape, b: &wide_b, b_shape };
            let (inputs, outputs) = (m * p, n * q);
            let gw = product(&wide_x, &wide_gy, [inputs, tokens, outputs], [true, false]);
            let [matrix, ga, gb] = reference(wide, &gw);
            let sum = |left: Vec<f64>, right: &[f64]| -> Vec<f64> { left.iter().zip(right).map(|(a, b)| a + b).collect() };
            let expected = [
                sum(product(&wide_x, &matrix, [tokens, inputs, outputs], [false, false]), &wide_gy),
                sum(product(&wide_gy, &matrix, [tokens, outputs, inputs], [false, true]), &wide_x),
                ga,
                gb,
            ];
            let counts = [inputs, outputs, tokens * p * q, tokens * m * n].map(|n| (terms * (n + 4)) as f64);
            let found = products(Kron { a: &a, a_shape, b: &b, b_shape }, &x, &gy);
            for ((found, expected), count) in found.iter().zip(&expected).zip(counts) {
                assert_close(found, expected, |_| 2f64.powi(-24) * count);
            }
            for ((found, expected), count) in products(wide, &wide_x, &wide_gy).iter().zip(&expected).zip(counts) {
                assert_close(found, expected, |_| 2f64.powi(-53) * 4.0 * count);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (a, b) = (
            narrow(&noise(2 * 5 * 7, 1)),
            narrow(&noise(2 * 119 * 23, 2)),
        );
        let (x, gy) = (narrow(&noise(701 * 595, 3)), narrow(&noise(701 * 161, 4)));
        let kron = Kron {
            a: &a,
            a_shape: [5, 7],
            b: &b,
            b_shape: [119, 23],
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
        kron.add(&[0.0; 2], &mut [0.0; 2]);
    }
}
