//! Products with a matrix of circulant blocks.

use crate::fourier::{Fourier, LANES};
use crate::parallel::{for_each, reduce, rows_per_partial, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// A matrix of `inputs x outputs` circulant blocks of side `b`; its kernel holds
/// `w: [outputs, inputs, b]`, and the block from input block `n` to output block `m` has the element
/// `w[m, n, (r - s) mod b]` in row `r` and column `s`.
///
/// No block is formed: a product costs `b log b` for each block row of a token and
/// `inputs outputs b` for the products of their Fourier transforms, where the whole matrix would
/// cost `inputs outputs b^2`. Two tokens share a transform as its real and imaginary part, since
/// the kernel is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CirculantBlocks {
    /// Blocks of an input row.
    pub inputs: usize,
    /// Blocks of an output row.
    pub outputs: usize,
    /// Side `b` of a block.
    pub size: usize,
}

/// Tokens that are transformed together.
const GROUP: usize = 2 * LANES;

impl CirculantBlocks {
    /// Width of the input, `inputs b`.
    pub fn width_in(self) -> usize {
        self.inputs * self.size
    }

    /// Width of the output, `outputs b`.
    pub fn width_out(self) -> usize {
        self.outputs * self.size
    }

    /// `y = x C(w)` for `x` of `[tokens, inputs b]` and `y` of `[tokens, outputs b]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn apply<T: Real>(self, x: &[T], w: &[T], y: &mut [T]) {
        let tokens = expect_rows("x", x, self.width_in());
        expect_len("w", w, self.inputs * self.outputs * self.size);
        expect_len("y", y, tokens * self.width_out());
        let plan = Fourier::new(self.size);
        let spectrum = self.spectrum(&plan, w);
        let groups = tokens.div_ceil(GROUP);
        let tokens_per_task = GROUP * rows_per_task(groups, self.cost(&plan));
        let rows_in = x.chunks(tokens_per_task * self.width_in());
        let rows_out = y.chunks_mut(tokens_per_task * self.width_out());
        for_each(rows_in.zip(rows_out), |(x, y)| {
            forward(self, &plan, &spectrum, x, y);
        });
    }

    /// Gradient of the input: `gx = gy C(w)^T`, itself a product with circulant blocks.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward_input<T: Real>(self, gy: &[T], w: &[T], gx: &mut [T]) {
        expect_len("w", w, self.inputs * self.outputs * self.size);
        let mut transposed = Vec::with_capacity(w.len());
        for n in 0..self.inputs {
            for m in 0..self.outputs {
                let kernel = &w[(m * self.inputs + n) * self.size..][..self.size];
                transposed.extend((0..self.size).map(|j| kernel[(self.size - j) % self.size]));
            }
        }
        let back = Self {
            inputs: self.outputs,
            outputs: self.inputs,
            size: self.size,
        };
        back.apply(gy, &transposed, gx);
    }

    /// Gradient of the kernel: `gw[m, n, j] = sum_t sum_r x[t, n b + r] gy[t, m b + (r - j) mod b]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn backward_kernel<T: Real>(self, x: &[T], gy: &[T]) -> Vec<T> {
        let tokens = expect_rows("x", x, self.width_in());
        expect_len("gy", gy, tokens * self.width_out());
        let plan = Fourier::new(self.size);
        let groups = tokens.div_ceil(GROUP);
        let task = rows_per_partial(groups, self.cost(&plan));
        let none = vec![(); groups.div_ceil(task).max(1)];
        let len = 2 * self.inputs * self.outputs * self.size;
        let sums = reduce(groups, task, len, none.into_iter(), |range, sum, ()| {
            let (start, end) = (range.start * GROUP, tokens.min(range.end * GROUP));
            let x = &x[start * self.width_in()..end * self.width_in()];
            let gy = &gy[start * self.width_out()..end * self.width_out()];
            correlate(self, &plan, x, gy, sum);
        });
        self.kernel(&plan, &sums)
    }

    /// Work of a group of tokens.
    fn cost<T: Real>(self, plan: &Fourier<T>) -> usize {
        let products = 4 * self.inputs * self.outputs * self.size;
        LANES * ((self.inputs + self.outputs) * plan.cost() + products)
    }

    /// The conjugate transforms of all kernels over b, `[outputs, inputs, b]`, real and imaginary.
    fn spectrum<T: Real>(self, plan: &Fourier<T>, w: &[T]) -> Vec<[T; 2]> {
        let scale = T::ONE / T::from_f64(self.size as f64);
        let mut work = Work::new(1, self.size);
        let mut spectrum = vec![[T::ZERO; 2]; w.len()];
        let kernels = w.chunks(self.size * LANES);
        for (kernels, out) in kernels.zip(spectrum.chunks_mut(self.size * LANES)) {
            work.im.fill(T::ZERO);
            for (lane, kernel) in kernels.chunks_exact(self.size).enumerate() {
                for (j, &value) in kernel.iter().enumerate() {
                    work.re[j * LANES + lane] = value * scale;
                }
            }
            transform(plan, &mut work);
            for (lane, out) in out.chunks_exact_mut(self.size).enumerate() {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = [work.re[k * LANES + lane], -work.im[k * LANES + lane]];
                }
            }
        }
        spectrum
    }

    /// The real parts of the inverse transforms of `[real or imaginary, outputs, inputs, b]`.
    fn kernel<T: Real>(self, plan: &Fourier<T>, sums: &[T]) -> Vec<T> {
        let scale = T::ONE / T::from_f64(self.size as f64);
        let (re, im) = sums.split_at(sums.len() / 2);
        let mut work = Work::new(1, self.size);
        let mut w = vec![T::ZERO; re.len()];
        let step = self.size * LANES;
        for ((re, im), w) in re.chunks(step).zip(im.chunks(step)).zip(w.chunks_mut(step)) {
            let parts = re.chunks_exact(self.size).zip(im.chunks_exact(self.size));
            for (lane, (re, im)) in parts.enumerate() {
                for k in 0..self.size {
                    work.re[k * LANES + lane] = re[k];
                    work.im[k * LANES + lane] = im[k];
                }
            }
            // Exchanged: the inverse.
            std::mem::swap(&mut work.re, &mut work.im);
            transform(plan, &mut work);
            std::mem::swap(&mut work.re, &mut work.im);
            for (lane, w) in w.chunks_exact_mut(self.size).enumerate() {
                for (k, w) in w.iter_mut().enumerate() {
                    *w = work.re[k * LANES + lane] * scale;
                }
            }
        }
        w
    }
}

/// Buffers of a group: `[blocks, b, LANES]`, real and imaginary, and room for a transform.
struct Work<T> {
    re: Vec<T>,
    im: Vec<T>,
    spare: Vec<T>,
}

impl<T: Real> Work<T> {
    fn new(blocks: usize, size: usize) -> Self {
        Self {
            re: vec![T::ZERO; blocks * size * LANES],
            im: vec![T::ZERO; blocks * size * LANES],
            spare: vec![T::ZERO; 2 * size * LANES],
        }
    }

    /// Reads up to [`GROUP`] rows of `width`: the first half as real parts, the rest as imaginary.
    #[inline(always)]
    fn load(&mut self, rows: &[T], width: usize) {
        let tokens = rows.len() / width;
        if tokens < GROUP {
            self.re.fill(T::ZERO);
            self.im.fill(T::ZERO);
        }
        for (part, rows) in [&mut self.re, &mut self.im]
            .into_iter()
            .zip(rows.chunks(LANES * width))
        {
            for (lane, row) in rows.chunks_exact(width).enumerate() {
                for (to, &from) in part[lane..].iter_mut().step_by(LANES).zip(row) {
                    *to = from;
                }
            }
        }
    }

    /// Writes what [`load`](Self::load) reads.
    #[inline(always)]
    fn store(&self, rows: &mut [T], width: usize) {
        for (part, rows) in [&self.re, &self.im]
            .into_iter()
            .zip(rows.chunks_mut(LANES * width))
        {
            for (lane, row) in rows.chunks_exact_mut(width).enumerate() {
                for (to, &from) in row.iter_mut().zip(part[lane..].iter().step_by(LANES)) {
                    *to = from;
                }
            }
        }
    }

    /// Transforms every block.
    #[inline(always)]
    fn forward<const FUSED: bool>(&mut self, plan: &Fourier<T>, size: usize) {
        let blocks = self.re.chunks_exact_mut(size * LANES);
        for (re, im) in blocks.zip(self.im.chunks_exact_mut(size * LANES)) {
            plan.run::<FUSED>(re, im, &mut self.spare);
        }
    }

    /// Transforms every block back, without the factor.
    #[inline(always)]
    fn inverse<const FUSED: bool>(&mut self, plan: &Fourier<T>, size: usize) {
        let blocks = self.re.chunks_exact_mut(size * LANES);
        for (re, im) in blocks.zip(self.im.chunks_exact_mut(size * LANES)) {
            plan.run::<FUSED>(im, re, &mut self.spare);
        }
    }
}

simd! {
    fn transform<T, const FUSED: bool>(plan: &Fourier<T>, work: &mut Work<T>) {
        plan.run::<FUSED>(&mut work.re, &mut work.im, &mut work.spare);
    }
}

simd! {
    fn forward<T, const FUSED: bool>(
        shape: CirculantBlocks,
        plan: &Fourier<T>,
        spectrum: &[[T; 2]],
        x: &[T],
        y: &mut [T],
    ) {
        let CirculantBlocks { inputs, outputs, size } = shape;
        let (mut from, mut to) = (Work::new(inputs, size), Work::new(outputs, size));
        let (width_in, width_out) = (shape.width_in(), shape.width_out());
        let groups = x.chunks(GROUP * width_in).zip(y.chunks_mut(GROUP * width_out));
        for (x, y) in groups {
            from.load(x, width_in);
            from.forward::<FUSED>(plan, size);
            let (re, im) = (from.re.as_chunks::<LANES>().0, from.im.as_chunks::<LANES>().0);
            let (to_re, to_im) = (to.re.as_chunks_mut::<LANES>().0, to.im.as_chunks_mut::<LANES>().0);
            for m in 0..outputs {
                for k in 0..size {
                    let (mut sum_re, mut sum_im) = ([T::ZERO; LANES], [T::ZERO; LANES]);
                    for n in 0..inputs {
                        let [w_re, w_im] = spectrum[(m * inputs + n) * size + k];
                        let (a, b) = (&re[n * size + k], &im[n * size + k]);
                        for lane in 0..LANES {
                            sum_re[lane] = a[lane].mul_add::<FUSED>(w_re, sum_re[lane]);
                            sum_im[lane] = a[lane].mul_add::<FUSED>(w_im, sum_im[lane]);
                        }
                        for lane in 0..LANES {
                            sum_re[lane] = b[lane].mul_add::<FUSED>(-w_im, sum_re[lane]);
                            sum_im[lane] = b[lane].mul_add::<FUSED>(w_re, sum_im[lane]);
                        }
                    }
                    to_re[m * size + k] = sum_re;
                    to_im[m * size + k] = sum_im;
                }
            }
            to.inverse::<FUSED>(plan, size);
            to.store(y, width_out);
        }
    }
}

simd! {
    /// Adds the transforms' products `x conj(gy)` of all tokens to `sums`, which holds
    /// `[real or imaginary, outputs, inputs, b]`.
    fn correlate<T, const FUSED: bool>(
        shape: CirculantBlocks,
        plan: &Fourier<T>,
        x: &[T],
        gy: &[T],
        sums: &mut [T],
    ) {
        let CirculantBlocks { inputs, outputs, size } = shape;
        let (mut left, mut right) = (Work::new(inputs, size), Work::new(outputs, size));
        let (width_in, width_out) = (shape.width_in(), shape.width_out());
        let half = sums.len() / 2;
        let (sums_re, sums_im) = sums.split_at_mut(half);
        for (x, gy) in x.chunks(GROUP * width_in).zip(gy.chunks(GROUP * width_out)) {
            left.load(x, width_in);
            left.forward::<FUSED>(plan, size);
            right.load(gy, width_out);
            right.forward::<FUSED>(plan, size);
            let (a, b) = (left.re.as_chunks::<LANES>().0, left.im.as_chunks::<LANES>().0);
            let (c, d) = (right.re.as_chunks::<LANES>().0, right.im.as_chunks::<LANES>().0);
            for m in 0..outputs {
                for n in 0..inputs {
                    let start = (m * inputs + n) * size;
                    for k in 0..size {
                        let (a, b) = (&a[n * size + k], &b[n * size + k]);
                        let (c, d) = (&c[m * size + k], &d[m * size + k]);
                        let (mut re, mut im) = ([T::ZERO; LANES], [T::ZERO; LANES]);
                        for lane in 0..LANES {
                            re[lane] = a[lane].mul_add::<FUSED>(c[lane], b[lane] * d[lane]);
                            im[lane] = b[lane].mul_add::<FUSED>(c[lane], -(a[lane] * d[lane]));
                        }
                        sums_re[start + k] += fold(re);
                        sums_im[start + k] += fold(im);
                    }
                }
            }
        }
    }
}

/// The sum of all lanes, in halves.
#[inline(always)]
fn fold<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn is_the_product_with_its_dense_matrix(
            tokens in 0usize..70, inputs in 1usize..4, outputs in 1usize..4, size in 1usize..14, seed: u64,
        ) {
            let shape = CirculantBlocks { inputs, outputs, size };
            let w = noise(inputs * outputs * size, seed);
            let (x, gy) = (noise(tokens * shape.width_in(), seed ^ 1), noise(tokens * shape.width_out(), seed ^ 2));
            let (mut y, mut gx, mut gw) = (vec![0.0; gy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
            for t in 0..tokens {
                for i in 0..shape.width_in() {
                    for j in 0..shape.width_out() {
                        let lag = (i % size + size - j % size) % size;
                        let at = (j / size * inputs + i / size) * size + lag;
                        let (input, output) = (t * shape.width_in() + i, t * shape.width_out() + j);
                        y[output] += x[input] * w[at];
                        gx[input] += gy[output] * w[at];
                        gw[at] += x[input] * gy[output];
                    }
                }
            }
            let (mut found_y, mut found_gx) = (vec![0.0; y.len()], vec![0.0; gx.len()]);
            shape.apply(&x, &w, &mut found_y);
            shape.backward_input(&gy, &w, &mut found_gx);
            assert_close(&found_y, &y, |_| 1e-13);
            assert_close(&found_gx, &gx, |_| 1e-13);
            assert_close(&shape.backward_kernel(&x, &gy), &gw, |_| 1e-13 * (tokens + 1) as f64);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let shape = CirculantBlocks {
            inputs: 3,
            outputs: 2,
            size: 96,
        };
        let x = narrow(&noise(1501 * shape.width_in(), 1));
        let gy = narrow(&noise(1501 * shape.width_out(), 2));
        let w = narrow(&noise(6 * 96, 3));
        assert_thread_independent(|| {
            let (mut y, mut gx) = (vec![0.0; gy.len()], vec![0.0; x.len()]);
            shape.apply(&x, &w, &mut y);
            shape.backward_input(&gy, &w, &mut gx);
            [y, gx, shape.backward_kernel(&x, &gy)].concat()
        });
    }

    #[test]
    #[should_panic(expected = "w: found 3 numbers, expected 4")]
    fn lengths_are_checked() {
        let shape = CirculantBlocks {
            inputs: 1,
            outputs: 1,
            size: 4,
        };
        shape.apply(&[0.0f32; 4], &[0.0; 3], &mut [0.0; 4]);
    }
}
