//! Products of the rows of two matrices.

use crate::parallel::{for_each, rows_per_task};
use crate::{Real, expect_len, expect_rows, fold};

/// Every row of one matrix times every row of another, entry by entry (a Khatri-Rao product).
///
/// With `left` of `[n, width]`, `right` of `[r, width]` and `weights` of `[r, n]` (1 where there are
/// none) row `i r + k` of the `[n r, width]` result is `weights[k, i] left[i] . right[k]`.
#[derive(Debug, Clone, Copy)]
pub struct KhatriRao<'a, T> {
    /// `[n, width]`.
    pub left: &'a [T],
    /// `[r, width]`.
    pub right: &'a [T],
    /// `[r, n]`.
    pub weights: Option<&'a [T]>,
    /// `width`.
    pub width: usize,
}

/// Gradients of [`KhatriRao`], in the shapes of its fields; empty where there are no weights.
#[derive(Debug, Clone)]
pub struct KhatriRaoGradients<T> {
    /// Of `left`.
    pub left: Vec<T>,
    /// Of `right`; empty unless it was wanted.
    pub right: Vec<T>,
    /// Of `weights`.
    pub weights: Vec<T>,
}

impl<T: Real> KhatriRao<'_, T> {
    /// Writes the products.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn apply(&self, out: &mut [T]) {
        let (n, r) = self.check(out);
        let block = r * self.width;
        let each = rows_per_task(n, 2 * block);
        for_each(
            out.chunks_mut((each * block).max(1)).enumerate(),
            |(task, out)| {
                for (i, out) in out.chunks_exact_mut(block.max(1)).enumerate() {
                    products(*self, task * each + i, n, out);
                }
            },
        );
    }

    /// The gradients from `g`, that of the products; that of `right` if `want_right`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn backward(&self, g: &[T], want_right: bool) -> KhatriRaoGradients<T> {
        let (n, r) = self.check(g);
        let block = r * self.width;
        let each = rows_per_task(n, 4 * block);
        let mut left = vec![T::ZERO; self.left.len()];
        // By column of the weights: each task has its own.
        let mut transposed = vec![T::ZERO; n * r];
        let tasks = left
            .chunks_mut(each * self.width)
            .zip(transposed.chunks_mut((each * r).max(1)));
        for_each(tasks.enumerate(), |(task, (left, weights))| {
            let parts = left
                .chunks_exact_mut(self.width)
                .zip(weights.chunks_exact_mut(r));
            for (i, (left, weights)) in parts.enumerate() {
                let i = task * each + i;
                gradients(*self, i, n, &g[i * block..(i + 1) * block], left, weights);
            }
        });
        let weights = self
            .weights
            .map(|_| crate::product::transpose(&transposed, r.max(1)));
        let mut right = Vec::new();
        if want_right {
            right = vec![T::ZERO; self.right.len()];
            let each = rows_per_task(r, 2 * n * self.width);
            for_each(
                right.chunks_mut((each * self.width).max(1)).enumerate(),
                |(task, right)| {
                    for (k, right) in right.chunks_exact_mut(self.width).enumerate() {
                        right_gradient(*self, task * each + k, n, g, right);
                    }
                },
            );
        }
        KhatriRaoGradients {
            left,
            right,
            weights: weights.unwrap_or_default(),
        }
    }

    #[inline(always)]
    fn weight(&self, k: usize, i: usize, n: usize) -> T {
        self.weights.map_or(T::ONE, |weights| weights[k * n + i])
    }

    #[inline(always)]
    fn row<'a>(&self, matrix: &'a [T], row: usize) -> &'a [T] {
        &matrix[row * self.width..(row + 1) * self.width]
    }

    #[track_caller]
    fn check(&self, out: &[T]) -> (usize, usize) {
        let n = expect_rows("left", self.left, self.width);
        let r = expect_rows("right", self.right, self.width);
        expect_len("products", out, n * r * self.width);
        if let Some(weights) = self.weights {
            expect_len("weights", weights, n * r);
        }
        (n, r)
    }
}

simd! {
    fn products<T, const FUSED: bool>(of: KhatriRao<'_, T>, i: usize, n: usize, out: &mut [T]) {
        let left = of.row(of.left, i);
        for (k, out) in out.chunks_exact_mut(of.width).enumerate() {
            let weight = of.weight(k, i, n);
            for ((out, &left), &right) in out.iter_mut().zip(left).zip(of.row(of.right, k)) {
                *out = weight * left * right;
            }
        }
    }
}

simd! {
    fn gradients<T, const FUSED: bool>(
        of: KhatriRao<'_, T>, i: usize, n: usize, g: &[T], g_left: &mut [T], g_weights: &mut [T],
    ) {
        let left = of.row(of.left, i);
        let mut part = vec![T::ZERO; of.width];
        for ((k, g), g_weight) in g.chunks_exact(of.width).enumerate().zip(g_weights) {
            let (weight, right) = (of.weight(k, i, n), of.row(of.right, k));
            for (((part, sum), &g), &right) in part.iter_mut().zip(&mut *g_left).zip(g).zip(right) {
                *part = g * right;
                *sum = weight.mul_add::<FUSED>(*part, *sum);
            }
            if of.weights.is_some() {
                *g_weight = fold::sum2(&part, left, |sum, part, left| part.mul_add::<FUSED>(left, sum));
            }
        }
    }
}

simd! {
    fn right_gradient<T, const FUSED: bool>(of: KhatriRao<'_, T>, k: usize, n: usize, g: &[T], g_right: &mut [T]) {
        let r = of.right.len() / of.width;
        for i in 0..n {
            let (weight, left, g) = (of.weight(k, i, n), of.row(of.left, i), of.row(g, i * r + k));
            for ((sum, &g), &left) in g_right.iter_mut().zip(g).zip(left) {
                *sum = (weight * left).mul_add::<FUSED>(g, *sum);
            }
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
        fn agrees_with_the_definition(n in 0usize..6, r in 0usize..6, width in 1usize..80, weighted: bool, seed: u64) {
            let (left, right) = (narrow(&noise(n * width, seed)), narrow(&noise(r * width, seed ^ 1)));
            let (weights, g) = (narrow(&noise(r * n, seed ^ 2)), narrow(&noise(n * r * width, seed ^ 3)));
            let of = KhatriRao { left: &left, right: &right, weights: weighted.then_some(&weights[..]), width };
            let mut out = g.clone();
            of.apply(&mut out);
            let found = of.backward(&g, true);
            prop_assert!(of.backward(&g, false).right.is_empty());

            let [left, right, weights, g] = [&left, &right, &weights, &g].map(|v| widen(v));
            let mut expected = [out.len(), left.len(), right.len(), weights.len()].map(|len| vec![0.0; len]);
            for (i, k, j) in (0..n).flat_map(|i| (0..r).flat_map(move |k| (0..width).map(move |j| (i, k, j)))) {
                let (l, m, at) = (left[i * width + j], right[k * width + j], (i * r + k) * width + j);
                let weight = if weighted { weights[k * n + i] } else { 1.0 };
                expected[0][at] = weight * l * m;
                expected[1][i * width + j] += g[at] * weight * m;
                expected[2][k * width + j] += g[at] * weight * l;
                expected[3][k * n + i] += g[at] * l * m;
            }
            if !weighted {
                expected[3].clear();
            }
            let found = [out, found.left, found.right, found.weights];
            for ((found, expected), terms) in found.iter().zip(&expected).zip([1, r, n, width]) {
                assert_close(found, expected, |_| 2f64.powi(-23) * (terms + 2) as f64);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (left, right) = (narrow(&noise(40 * 901, 1)), narrow(&noise(30 * 901, 2)));
        let (weights, g) = (narrow(&noise(1200, 3)), narrow(&noise(1200 * 901, 4)));
        let of = KhatriRao {
            left: &left,
            right: &right,
            weights: Some(&weights),
            width: 901,
        };
        assert_thread_independent(|| {
            let mut out = g.clone();
            of.apply(&mut out);
            let gradients = of.backward(&g, true);
            [out, gradients.left, gradients.right, gradients.weights].concat()
        });
    }
}
