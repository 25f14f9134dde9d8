//! Products with a matrix of circulant blocks.

use crate::fourier::Fourier;
use crate::group::{GROUP, Group};
use crate::parallel::{for_each, parts, reduce, rows_per_partial, rows_per_task};
use crate::vector::LANES;
use crate::{Real, expect_len, expect_rows};

/// A matrix of `inputs x outputs` circulant blocks of side `b`, cut to `width_in x width_out`; its
/// kernel holds `w: [outputs, inputs, b]`, and the block from input block `n` to output block `m`
/// has the element `w[m, n, (r - s) mod b]` in row `r` and column `s`.
///
/// No block is formed: a product costs `b log b` for each block row of a token and
/// `inputs outputs b` for the products of their Fourier transforms, where the whole matrix would
/// cost `inputs outputs b^2`. Two tokens share a transform as its real and imaginary part, since
/// the kernel is real, and 16 such pairs are transformed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CirculantBlocks {
    /// Width of the input, at most `inputs b`: zeros follow.
    pub width_in: usize,
    /// Width of the output, at most `outputs b`: what follows is dropped.
    pub width_out: usize,
    /// Blocks of an input row.
    pub inputs: usize,
    /// Blocks of an output row.
    pub outputs: usize,
    /// Side `b` of a block.
    pub size: usize,
}

impl CirculantBlocks {
    /// `y += s x C(w)` for `x` of `[tokens, width_in]` and `y` of `[tokens, width_out]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn apply<T: Real>(self, x: &[T], w: &[T], scale: f64, y: &mut [T]) {
        let tokens = expect_rows("x", x, self.width_in);
        expect_len("w", w, self.inputs * self.outputs * self.size);
        expect_len("y", y, tokens * self.width_out);
        let plan = Fourier::new(self.size);
        let spectrum = self.spectrum(&plan, w, scale);
        let rows = GROUP * rows_per_task(tokens.div_ceil(GROUP), self.cost(&plan));
        let rows_in = x.chunks(rows * self.width_in);
        let rows_out = y.chunks_mut(rows * self.width_out);
        for_each(rows_in.zip(rows_out), |(x, y)| {
            forward(self, &plan, &spectrum, x, y);
        });
    }

    /// Gradients: adds that of the input, `s gy C(w)^T`, to `gx`, and writes that of the kernel,
    /// `gw[m, n, j] = s sum_t sum_r x[t, n b + r] gy[t, m b + (r - j) mod b]`; each where it is
    /// wanted. The former needs `w`, the latter `x`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn backward<T: Real>(
        self,
        [x, w, gy]: [&[T]; 3],
        scale: f64,
        gx: Option<&mut [T]>,
        gw: Option<&mut [T]>,
    ) {
        let tokens = expect_rows("gy", gy, self.width_out);
        let plan = Fourier::new(self.size);
        let wanted = [gx.is_some(), gw.is_some()];
        let gx = gx.unwrap_or_default();
        let spectrum = if wanted[0] {
            expect_len("w", w, self.inputs * self.outputs * self.size);
            expect_len("gx", gx, tokens * self.width_in);
            self.spectrum(&plan, w, scale)
        } else {
            Vec::new()
        };
        if wanted[1] {
            expect_len("x", x, tokens * self.width_in);
        }
        let pairs: Vec<[usize; 2]> = (0..=self.size / 2)
            .map(|k| [k, (self.size - k) % self.size].map(|k| plan.place(k)))
            .collect();
        let groups = tokens.div_ceil(GROUP);
        let task = rows_per_partial(groups, 2 * self.cost(&plan));
        let len = match wanted[1] {
            true => 2 * self.inputs * self.outputs * pairs.len(),
            false => 0,
        };
        let outputs = parts(
            gx,
            task * GROUP * self.width_in,
            groups.div_ceil(task).max(1),
        );
        let sums = reduce(groups, task, len, outputs.into_iter(), |range, sums, gx| {
            let (start, end) = (range.start * GROUP, tokens.min(range.end * GROUP));
            let x = match wanted[1] {
                true => &x[start * self.width_in..end * self.width_in],
                false => x,
            };
            let gy = &gy[start * self.width_out..end * self.width_out];
            backward(self, &plan, (&spectrum, &pairs), [x, gy], gx, sums);
        });
        if let Some(gw) = gw {
            expect_len("gw", gw, self.inputs * self.outputs * self.size);
            let scale = scale / (2 * self.size) as f64;
            spectrum_to_kernels(self, &plan, &pairs, &sums, scale, gw);
        }
    }

    /// Work of a group of tokens.
    fn cost<T: Real>(self, plan: &Fourier<T>) -> usize {
        let products = 4 * self.inputs * self.outputs * self.size;
        LANES * ((self.inputs + self.outputs) * plan.cost() + products)
    }

    /// The conjugate transforms of all kernels times s / b, `[b, outputs, inputs]` in the order of
    /// the plan, real and imaginary.
    fn spectrum<T: Real>(self, plan: &Fourier<T>, w: &[T], scale: f64) -> Vec<[T; 2]> {
        let mut spectrum = vec![[T::ZERO; 2]; w.len()];
        kernels_to_spectrum(self, plan, w, scale / self.size as f64, &mut spectrum);
        spectrum
    }
}

/// One kernel a lane, not two: their transforms are wanted apart.
fn kernels_to_spectrum<T: Real>(
    shape: CirculantBlocks,
    plan: &Fourier<T>,
    w: &[T],
    scale: f64,
    spectrum: &mut [[T; 2]],
) {
    let scale = T::from_f64(scale);
    let blocks = shape.inputs * shape.outputs;
    let mut group = Group::new(shape.size);
    for (at, kernels) in w.chunks(shape.size * LANES).enumerate() {
        group.clear();
        group.load(kernels, shape.size);
        group.forward(plan, shape.size);
        for (k, (re, im)) in group.re.iter().zip(&group.im).enumerate() {
            let to = &mut spectrum[k * blocks + at * LANES..(k + 1) * blocks];
            for ((to, &re), &im) in to.iter_mut().zip(&re.0).zip(&im.0) {
                *to = [re * scale, -im * scale];
            }
        }
    }
}

/// Inverse transforms of the even part of the spectra whose sums and differences over pairs of
/// frequencies are given, `[real or imaginary, outputs, inputs, pairs]`.
fn spectrum_to_kernels<T: Real>(
    shape: CirculantBlocks,
    plan: &Fourier<T>,
    pairs: &[[usize; 2]],
    sums: &[T],
    scale: f64,
    w: &mut [T],
) {
    let scale = T::from_f64(scale);
    let (all_re, all_im) = sums.split_at(sums.len() / 2);
    let mut group = Group::new(shape.size);
    let (step, lines) = (pairs.len() * LANES, w.chunks_mut(shape.size * LANES));
    for ((re, im), w) in all_re.chunks(step).zip(all_im.chunks(step)).zip(lines) {
        group.clear();
        let parts = re
            .chunks_exact(pairs.len())
            .zip(im.chunks_exact(pairs.len()));
        for (lane, (re, im)) in parts.enumerate() {
            for ((&[k, mirrored], &re), &im) in pairs.iter().zip(re).zip(im) {
                let (re, im) = (re * scale, if k == mirrored { T::ZERO } else { im * scale });
                (group.re[k].0[lane], group.im[k].0[lane]) = (re, im);
                (group.re[mirrored].0[lane], group.im[mirrored].0[lane]) = (re, -im);
            }
        }
        group.inverse(plan, shape.size);
        w.fill(T::ZERO);
        group.add_to(w, shape.size);
    }
}

vectors! {
    fn forward<T, V>(
        shape: CirculantBlocks,
        plan: &Fourier<T>,
        spectrum: &[[T; 2]],
        x: &[T],
        y: &mut [T],
    ) {
        let CirculantBlocks { width_in, width_out, inputs, outputs, size } = shape;
        let mut from = Group::<T>::new(inputs * size);
        let mut to = Group::<T>::new(outputs * size);
        for (x, y) in x.chunks(GROUP * width_in).zip(y.chunks_mut(GROUP * width_out)) {
            from.load(x, width_in);
            from.forward(plan, size);
            for (k, kernels) in spectrum.chunks_exact(inputs * outputs).enumerate() {
                for (m, kernels) in kernels.chunks_exact(inputs).enumerate() {
                    let (mut re, mut im) = (V::splat(T::ZERO), V::splat(T::ZERO));
                    for (n, &[w_re, w_im]) in kernels.iter().enumerate() {
                        let (a, b): (V, V) = from.at(n * size + k);
                        let w = (V::splat(w_re), V::splat(w_im));
                        re = a.mul_add(w.0, re.minus(b.times(w.1)));
                        im = b.mul_add(w.0, a.mul_add(w.1, im));
                    }
                    to.set(m * size + k, (re, im));
                }
            }
            to.inverse(plan, size);
            to.add_to(y, width_out);
        }
    }
}

vectors! {
    /// Adds the gradient of the inputs to `gx`, unless it is empty, and that of the kernels'
    /// transforms to `sums`, unless it is empty: sums and differences over pairs of frequencies of
    /// the products `x conj(gy)`, `[real or imaginary, outputs, inputs, pairs]`.
    fn backward<T, V>(
        shape: CirculantBlocks,
        plan: &Fourier<T>,
        operands: (&[[T; 2]], &[[usize; 2]]),
        tokens: [&[T]; 2],
        gx: &mut [T],
        sums: &mut [T],
    ) {
        let CirculantBlocks { width_in, width_out, inputs, outputs, size } = shape;
        let ((spectrum, pairs), [x, gy]) = (operands, tokens);
        let mut left = Group::<T>::new(inputs * size);
        let mut right = Group::<T>::new(outputs * size);
        let (sums_re, sums_im) = sums.split_at_mut(sums.len() / 2);
        for (at, gy) in gy.chunks(GROUP * width_out).enumerate() {
            let start = at * GROUP * width_in;
            right.load(gy, width_out);
            right.forward(plan, size);
            if !sums_re.is_empty() {
                left.load(&x[start..x.len().min(start + GROUP * width_in)], width_in);
                left.forward(plan, size);
                let lines = sums_re.chunks_exact_mut(pairs.len()).zip(sums_im.chunks_exact_mut(pairs.len()));
                for (block, (line_re, line_im)) in lines.enumerate() {
                    let (m, n) = (block / inputs * size, block % inputs * size);
                    for ((&[p, q], re), im) in pairs.iter().zip(line_re).zip(line_im) {
                        let [(a, b), (e, f)]: [(V, V); 2] = [left.at(n + p), left.at(n + q)];
                        let [(c, d), (g, h)]: [(V, V); 2] = [right.at(m + p), right.at(m + q)];
                        let sum = b.mul_add(d, a.times(c));
                        *re += f.mul_add(h, e.mul_add(g, sum)).sum();
                        let plus = e.mul_add(h, b.times(c));
                        let minus = a.mul_add(d, f.times(g));
                        *im += plus.minus(minus).sum();
                    }
                }
            }
            if !gx.is_empty() {
                for (k, kernels) in spectrum.chunks_exact(inputs * outputs).enumerate() {
                    for n in 0..inputs {
                        let (mut re, mut im) = (V::splat(T::ZERO), V::splat(T::ZERO));
                        for m in 0..outputs {
                            let [w_re, w_im] = kernels[m * inputs + n];
                            let (a, b): (V, V) = right.at(m * size + k);
                            let w = (V::splat(w_re), V::splat(w_im));
                            re = a.mul_add(w.0, b.mul_add(w.1, re));
                            im = b.mul_add(w.0, im.minus(a.times(w.1)));
                        }
                        left.set(n * size + k, (re, im));
                    }
                }
                left.inverse(plan, size);
                let end = gx.len().min(start + GROUP * width_in);
                left.add_to(&mut gx[start..end], width_in);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn is_the_product_with_its_dense_matrix(
            tokens in 0usize..70,
            inputs in 1usize..4,
            outputs in 1usize..4,
            size in 1usize..21,
            cut in (0usize..20, 0usize..20),
            seed: u64,
        ) {
            let shape = CirculantBlocks {
                width_in: inputs * size - cut.0 % size,
                width_out: outputs * size - cut.1 % size,
                inputs,
                outputs,
                size,
            };
            let w = noise(inputs * outputs * size, seed);
            let x = noise(tokens * shape.width_in, seed ^ 1);
            let gy = noise(tokens * shape.width_out, seed ^ 2);
            // Both start from what is there.
            let (mut y, mut gx, mut gw) = (gy.clone(), x.clone(), vec![0.0; w.len()]);
            for t in 0..tokens {
                for i in 0..shape.width_in {
                    for j in 0..shape.width_out {
                        let lag = (i % size + size - j % size) % size;
                        let at = (j / size * inputs + i / size) * size + lag;
                        let (input, output) = (t * shape.width_in + i, t * shape.width_out + j);
                        y[output] += 0.5 * x[input] * w[at];
                        gx[input] += 0.5 * gy[output] * w[at];
                        gw[at] += 0.5 * x[input] * gy[output];
                    }
                }
            }
            let (mut found_y, mut found_gx, mut found_gw) = (gy.clone(), x.clone(), vec![1.0; w.len()]);
            shape.apply(&x, &w, 0.5, &mut found_y);
            shape.backward([&x, &w, &gy], 0.5, Some(&mut found_gx), Some(&mut found_gw));
            assert_close(&found_y, &y, |_| 1e-13);
            assert_close(&found_gx, &gx, |_| 1e-13);
            assert_close(&found_gw, &gw, |_| 1e-13 * (tokens + 1) as f64);
            let mut alone = x.clone();
            shape.backward([&x, &w, &gy], 0.5, Some(&mut alone), None);
            assert_eq!(alone, found_gx);
            let mut alone = vec![1.0; w.len()];
            shape.backward([&x, &w, &gy], 0.5, None, Some(&mut alone));
            assert_eq!(alone, found_gw);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let shape = CirculantBlocks {
            width_in: 288,
            width_out: 190,
            inputs: 3,
            outputs: 2,
            size: 96,
        };
        let x = narrow(&noise(1501 * shape.width_in, 1));
        let gy = narrow(&noise(1501 * shape.width_out, 2));
        let w = narrow(&noise(6 * 96, 3));
        assert_thread_independent(|| {
            let (mut y, mut gx, mut gw) = (gy.clone(), x.clone(), w.clone());
            shape.apply(&x, &w, 1.0, &mut y);
            shape.backward([&x, &w, &gy], 1.0, Some(&mut gx), Some(&mut gw));
            [y, gx, gw].concat()
        });
    }

    #[test]
    #[should_panic(expected = "w: found 3 numbers, expected 4")]
    fn lengths_are_checked() {
        let shape = CirculantBlocks {
            width_in: 4,
            width_out: 4,
            inputs: 1,
            outputs: 1,
            size: 4,
        };
        shape.apply(&[0.0f32; 4], &[0.0; 3], 1.0, &mut [0.0; 4]);
    }
}
