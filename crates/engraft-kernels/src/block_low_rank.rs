//! A matrix of blocks, each a product of low rank of its own.

use crate::matmul::{Mat, Onto, matmul};
use crate::{Real, expect_len};

/// The update of GraLoRA: `k x k` blocks, the one from inputs `n` to outputs `j` being
/// `s A_nj B_nj` of rank `r / k` (Jung et al., arXiv 2505.20355, section 3).
///
/// `A_nj` is columns `j r / k ...` of `A_n`, `B_nj` rows `n r / k ...` of `B_j`.
#[derive(Debug, Clone, Copy)]
pub struct BlockLowRank<'a, T> {
    /// `A`, `[k, d_in / k, r]`.
    pub a: &'a [T],
    /// `B`, `[k, r, d_out / k]`.
    pub b: &'a [T],
    /// `k`, the blocks along each side.
    pub blocks: usize,
    /// `r`, a multiple of `k`.
    pub rank: usize,
    /// `s`.
    pub scaling: T,
}

impl<T: Real> BlockLowRank<'_, T> {
    /// `y += x` times the update for `tokens` rows; returns what [`backward`](Self::backward) needs,
    /// `[tokens, k r]`.
    ///
    /// `2 tokens r (d_in + d_out)` flops; between the factors only `tokens k r` numbers change places.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn add(&self, x: &[T], y: &mut [T], tokens: usize) -> Vec<T> {
        let [inputs, outputs] = self.widths();
        let (k, r) = (self.blocks, self.rank);
        let x = Mat::new(x, tokens, k * inputs);
        expect_len("y", y, tokens * k * outputs);
        let mut narrow = vec![T::ZERO; tokens * k * r];
        for n in (0..k).filter(|_| tokens > 0) {
            let x = x.narrow(n * inputs, inputs);
            matmul(
                (&mut narrow[n * r..], k * r),
                Onto::Nothing,
                x,
                self.a(n),
                self.scaling,
            );
        }
        let narrow = self.exchanged(&narrow);
        let h = Mat::new(&narrow, tokens, k * r);
        for j in (0..k).filter(|_| tokens > 0) {
            matmul(
                (&mut y[j * outputs..], k * outputs),
                Onto::Present,
                h.narrow(j * r, r),
                self.b(j),
                T::ONE,
            );
        }
        narrow
    }

    /// `(gA, gB)` from the gradient of `y`; adds that of `x` to `gx` where it is wanted.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn backward(
        &self,
        x: &[T],
        narrow: &[T],
        gy: &[T],
        gx: Option<&mut [T]>,
    ) -> (Vec<T>, Vec<T>) {
        let [inputs, outputs] = self.widths();
        let (k, r) = (self.blocks, self.rank);
        let tokens = narrow.len() / (k * r);
        let (x, h) = (
            Mat::new(x, tokens, k * inputs),
            Mat::new(narrow, tokens, k * r),
        );
        let gy = Mat::new(gy, tokens, k * outputs);
        let (mut ga, mut gb) = (vec![T::ZERO; self.a.len()], vec![T::ZERO; self.b.len()]);
        let mut g_narrow = vec![T::ZERO; narrow.len()];
        for (j, gb) in gb
            .chunks_exact_mut((r * outputs).max(1))
            .enumerate()
            .filter(|_| tokens > 0)
        {
            let gy = gy.narrow(j * outputs, outputs);
            matmul(
                (gb, outputs),
                Onto::Nothing,
                h.narrow(j * r, r).t(),
                gy,
                T::ONE,
            );
            matmul(
                (&mut g_narrow[j * r..], k * r),
                Onto::Nothing,
                gy,
                self.b(j).t(),
                self.scaling,
            );
        }
        let g_narrow = self.exchanged(&g_narrow);
        let g = Mat::new(&g_narrow, tokens, k * r);
        for (n, ga) in ga
            .chunks_exact_mut((inputs * r).max(1))
            .enumerate()
            .filter(|_| tokens > 0)
        {
            let x = x.narrow(n * inputs, inputs);
            matmul((ga, r), Onto::Nothing, x.t(), g.narrow(n * r, r), T::ONE);
        }
        if let Some(gx) = gx {
            expect_len("gx", gx, tokens * k * inputs);
            for n in (0..k).filter(|_| tokens > 0) {
                matmul(
                    (&mut gx[n * inputs..], k * inputs),
                    Onto::Present,
                    g.narrow(n * r, r),
                    self.a(n).t(),
                    T::ONE,
                );
            }
        }
        (ga, gb)
    }

    /// Adds the update to `w`, `[d_in, d_out]`: `2 r d_in d_out / k` flops.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn add_matrix(&self, w: &mut [T]) {
        let [inputs, outputs] = self.widths();
        let (k, width) = (self.blocks, self.blocks * outputs);
        expect_len("w", w, k * inputs * width);
        for n in 0..k {
            for j in 0..k {
                let block = &mut w[n * inputs * width + j * outputs..];
                let [a, b] = self.factors(n, j);
                matmul((block, width), Onto::Present, a, b, self.scaling);
            }
        }
    }

    /// `(gA, gB)` of [`add_matrix`](Self::add_matrix) from the gradient of its result.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn backward_matrix(&self, g: &[T]) -> (Vec<T>, Vec<T>) {
        let [inputs, outputs] = self.widths();
        let (k, r, width) = (self.blocks, self.rank, self.blocks * outputs);
        expect_len("g", g, k * inputs * width);
        let (mut ga, mut gb) = (vec![T::ZERO; self.a.len()], vec![T::ZERO; self.b.len()]);
        for n in 0..k {
            let g = Mat::new(
                &g[n * inputs * width..(n + 1) * inputs * width],
                inputs,
                width,
            );
            for j in 0..k {
                let g = g.narrow(j * outputs, outputs);
                let [a, b] = self.factors(n, j);
                let ga = &mut ga[n * inputs * r + j * (r / k)..];
                matmul((ga, r), Onto::Nothing, g, b.t(), self.scaling);
                let gb = &mut gb[(j * r + n * (r / k)) * outputs..];
                matmul((gb, outputs), Onto::Nothing, a.t(), g, self.scaling);
            }
        }
        (ga, gb)
    }

    /// `[tokens, k, k, r / k]` with the two block indices exchanged, which is its own inverse.
    fn exchanged(&self, narrow: &[T]) -> Vec<T> {
        let (k, piece) = (self.blocks, self.rank / self.blocks);
        let mut out = Vec::with_capacity(narrow.len());
        for row in narrow.chunks_exact((k * self.rank).max(1)) {
            for j in 0..k {
                for n in 0..k {
                    let start = n * self.rank + j * piece;
                    out.extend_from_slice(&row[start..start + piece]);
                }
            }
        }
        out
    }

    /// `A_n`, `[d_in / k, r]`.
    fn a(&self, n: usize) -> Mat<'_, T> {
        let [inputs, _] = self.widths();
        let size = inputs * self.rank;
        Mat::new(&self.a[n * size..(n + 1) * size], inputs, self.rank)
    }

    /// `B_j`, `[r, d_out / k]`.
    fn b(&self, j: usize) -> Mat<'_, T> {
        let [_, outputs] = self.widths();
        let size = outputs * self.rank;
        Mat::new(&self.b[j * size..(j + 1) * size], self.rank, outputs)
    }

    /// `A_nj` and `B_nj`.
    fn factors(&self, n: usize, j: usize) -> [Mat<'_, T>; 2] {
        let piece = self.rank / self.blocks;
        let rows = self.b(j).t().narrow(n * piece, piece).t();
        [self.a(n).narrow(j * piece, piece), rows]
    }

    /// `d_in / k` and `d_out / k`.
    #[track_caller]
    fn widths(&self) -> [usize; 2] {
        let (k, r) = (self.blocks, self.rank);
        assert!(
            k > 0 && r > 0 && r.is_multiple_of(k),
            "rank: found {r}, expected a positive multiple of {k} blocks"
        );
        let widths = [self.a.len() / (k * r), self.b.len() / (k * r)];
        expect_len("a", self.a, k * r * widths[0]);
        expect_len("b", self.b, k * r * widths[1]);
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_matrix_of_blocks(
            tokens in 0usize..12, k in 1usize..4, piece in 1usize..4, [inputs, outputs] in [1usize..9, 1usize..9], seed: u64,
        ) {
            let (r, d_in, d_out) = (k * piece, k * inputs, k * outputs);
            let (a, b) = (noise(d_in * r, seed), noise(r * d_out, seed ^ 1));
            let (x, gy) = (noise(tokens * d_in, seed ^ 2), noise(tokens * d_out, seed ^ 3));
            let of = BlockLowRank { a: &a, b: &b, blocks: k, rank: r, scaling: 0.7 };
            let mut matrix = vec![0.0; d_in * d_out];
            let (mut ga, mut gb) = (vec![0.0; a.len()], vec![0.0; b.len()]);
            for (at, entry) in matrix.iter_mut().enumerate() {
                let (i, o) = (at / d_out, at % d_out);
                let (n, j) = (i / inputs, o / outputs);
                let g: f64 = (0..tokens).map(|t| x[t * d_in + i] * gy[t * d_out + o]).sum();
                for q in 0..piece {
                    let a_at = (n * inputs + i % inputs) * r + j * piece + q;
                    let b_at = (j * r + n * piece + q) * outputs + o % outputs;
                    *entry += 0.7 * a[a_at] * b[b_at];
                    ga[a_at] += 0.7 * g * b[b_at];
                    gb[b_at] += 0.7 * g * a[a_at];
                }
            }
            let (mut y, mut gx) = (gy.clone(), x.clone());
            let narrow = of.add(&x, &mut y, tokens);
            let gradients = of.backward(&x, &narrow, &gy, Some(&mut gx));
            prop_assert!(of.backward(&x, &narrow, &gy, None) == gradients);
            let dot = |left: &[f64], right: &dyn Fn(usize) -> f64| left.iter().enumerate().map(|(i, v)| v * right(i)).sum::<f64>();
            let expected_y: Vec<f64> = (0..tokens * d_out)
                .map(|at| gy[at] + dot(&x[at / d_out * d_in..][..d_in], &|i| matrix[i * d_out + at % d_out]))
                .collect();
            let expected_gx: Vec<f64> = (0..tokens * d_in)
                .map(|at| x[at] + dot(&gy[at / d_in * d_out..][..d_out], &|o| matrix[at % d_in * d_out + o]))
                .collect();
            let tolerance = |_| 1e-13;
            assert_close(&y, &expected_y, tolerance);
            assert_close(&gx, &expected_gx, tolerance);
            assert_close(&gradients.0, &ga, tolerance);
            assert_close(&gradients.1, &gb, tolerance);

            let mut added = vec![1.0; d_in * d_out];
            of.add_matrix(&mut added);
            assert_close(&added, &matrix.iter().map(|entry| entry + 1.0).collect::<Vec<_>>(), tolerance);
            let mut g = vec![0.0; d_in * d_out];
            for (at, g) in g.iter_mut().enumerate() {
                *g = (0..tokens).map(|t| x[t * d_in + at / d_out] * gy[t * d_out + at % d_out]).sum();
            }
            let (found_a, found_b) = of.backward_matrix(&g);
            assert_close(&found_a, &ga, tolerance);
            assert_close(&found_b, &gb, tolerance);
        }
    }
}
