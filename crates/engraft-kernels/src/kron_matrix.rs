//! A sum of Kronecker products as a matrix.

use crate::fold::sum2;
use crate::kron::Kron;
use crate::parallel::{for_each, reduce, rows_per_partial, rows_per_task};
use crate::{Real, expect_len};

impl<T: Real> Kron<'_, T> {
    /// `out = w + sum_k A_k (x) B_k`, all of `[m p, n q]`: one pass.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn add_matrix(&self, w: &[T], out: &mut [T]) {
        let (rows, width) = (self.check_matrix(w), self.outputs());
        expect_len("out", out, w.len());
        let task = rows_per_task(rows, width * 2 * self.terms().max(1));
        let tasks = w.chunks(task * width).zip(out.chunks_mut(task * width));
        for_each(tasks.enumerate(), |(i, (w, out))| {
            add_rows(*self, i * task, w, out)
        });
    }

    /// `(gA, gB)` of [`add_matrix`](Self::add_matrix) from the gradient of its result.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn backward_matrix(&self, g: &[T]) -> (Vec<T>, Vec<T>) {
        let (rows, width) = (self.check_matrix(g), self.outputs());
        let task = rows_per_partial(rows, width * 4 * self.terms().max(1));
        let none = vec![(); rows.div_ceil(task).max(1)];
        let len = self.a.len() + self.b.len();
        let mut ga = reduce(rows, task, len, none.into_iter(), |range, sums, ()| {
            let (ga, gb) = sums.split_at_mut(self.a.len());
            backward_rows(
                *self,
                range.start,
                &g[range.start * width..range.end * width],
                [ga, gb],
            );
        });
        let gb = ga.split_off(self.a.len());
        (ga, gb)
    }

    #[track_caller]
    fn check_matrix(&self, w: &[T]) -> usize {
        self.check(&[], &[]);
        expect_len("w", w, self.inputs() * self.outputs());
        self.inputs()
    }
}

simd! {
    fn add_rows<T, const FUSED: bool>(kron: Kron<'_, T>, first: usize, w: &[T], out: &mut [T]) {
        let ([_, n], [p, q]) = (kron.a_shape, kron.b_shape);
        out.copy_from_slice(w);
        for (row, out) in out.chunks_exact_mut(n * q).enumerate() {
            let (i, k) = ((first + row) / p, (first + row) % p);
            for (a, b) in kron.factors() {
                let (a, b) = (&a[i * n..(i + 1) * n], &b[k * q..(k + 1) * q]);
                for (out, &a) in out.chunks_exact_mut(q).zip(a) {
                    for (out, &b) in out.iter_mut().zip(b) {
                        *out = a.mul_add::<FUSED>(b, *out);
                    }
                }
            }
        }
    }
}

simd! {
    fn backward_rows<T, const FUSED: bool>(kron: Kron<'_, T>, first: usize, g: &[T], sums: [&mut [T]; 2]) {
        let ([m, n], [p, q]) = (kron.a_shape, kron.b_shape);
        let [ga, gb] = sums;
        for (row, g) in g.chunks_exact(n * q).enumerate() {
            let (i, k) = ((first + row) / p, (first + row) % p);
            let parts = ga.chunks_exact_mut(m * n).zip(gb.chunks_exact_mut(p * q));
            for ((a, b), (ga, gb)) in kron.factors().zip(parts) {
                let (b, gb) = (&b[k * q..(k + 1) * q], &mut gb[k * q..(k + 1) * q]);
                let terms = a[i * n..(i + 1) * n].iter().zip(&mut ga[i * n..(i + 1) * n]);
                for (g, (&a, ga)) in g.chunks_exact(q).zip(terms) {
                    *ga += sum2(g, b, |sum, g, b| g.mul_add::<FUSED>(b, sum));
                    for (gb, &g) in gb.iter_mut().zip(g) {
                        *gb = a.mul_add::<FUSED>(g, *gb);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    /// The matrix by the definition: entry `(i p + k, j q + l)` is `sum A[i, j] B[k, l]`; the
    /// gradients of the factors if `g` is that of the matrix.
    pub(crate) fn reference(kron: Kron<'_, f64>, g: &[f64]) -> [Vec<f64>; 3] {
        let ([m, n], [p, q]) = (kron.a_shape, kron.b_shape);
        let mut out = [g.len(), kron.a.len(), kron.b.len()].map(|len| vec![0.0; len]);
        for term in 0..kron.a.len() / (m * n) {
            for at in 0..m * p * n * q {
                let (row, column) = (at / (n * q), at % (n * q));
                let a_at = term * m * n + row / p * n + column / q;
                let b_at = term * p * q + row % p * q + column % q;
                out[0][at] += kron.a[a_at] * kron.b[b_at];
                out[1][a_at] += g[at] * kron.b[b_at];
                out[2][b_at] += g[at] * kron.a[a_at];
            }
        }
        out
    }

    proptest! {
        #[test]
        fn the_matrix_and_its_gradients_agree_with_the_definition(
            terms in 1usize..4, [m, n, p, q] in [1usize..6, 1usize..6, 1usize..40, 1usize..40], seed: u64,
        ) {
            let (a, b) = (noise(terms * m * n, seed), noise(terms * p * q, seed ^ 1));
            let (w, g) = (noise(m * n * p * q, seed ^ 2), noise(m * n * p * q, seed ^ 3));
            let kron = Kron { a: &a, a_shape: [m, n], b: &b, b_shape: [p, q] };
            let [mut matrix, expected_a, expected_b] = reference(kron, &g);
            matrix.iter_mut().zip(&w).for_each(|(entry, w)| *entry += w);
            let mut out = g.clone();
            kron.add_matrix(&w, &mut out);
            let (ga, gb) = kron.backward_matrix(&g);
            for (found, expected) in [(out, matrix), (ga, expected_a), (gb, expected_b)] {
                assert_close(&found, &expected, |_| 1e-15 * (m * n + p * q + 4) as f64);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (a, b) = (
            narrow(&noise(2 * 5 * 7, 1)),
            narrow(&noise(2 * 119 * 123, 2)),
        );
        let w = narrow(&noise(595 * 861, 3));
        let kron = Kron {
            a: &a,
            a_shape: [5, 7],
            b: &b,
            b_shape: [119, 123],
        };
        assert_thread_independent(|| {
            let mut out = w.clone();
            kron.add_matrix(&w, &mut out);
            let (ga, gb) = kron.backward_matrix(&w);
            [out, ga, gb].concat()
        });
    }
}
