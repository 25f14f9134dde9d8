//! Products with a matrix of a few plane waves.

use crate::fourier::Fourier;
use crate::group::{GROUP, Group};
use crate::moves::{Moves, gather};
use crate::parallel::{for_each, parts, reduce, rows_per_partial, rows_per_task};
use crate::vector::LANES;
use crate::{Real, expect_len, expect_rows};

/// The `width_in x width_out` matrix
/// `U[i, j] = sum_e c_e cos(2 pi (q_e i / width_in + p_e j / width_out))` of the `n` places
/// `q_e width_out + p_e`: the real part of the two-dimensional Fourier transform of a sparse array.
///
/// It is not formed: a token is transformed, its `n` frequencies are moved to the output's and
/// transformed back, which costs `width_in log width_in + width_out log width_out + 4 n`. The
/// matrix itself is the product with the identity ([`Tokens::Identity`]).
#[derive(Debug, Clone, Copy)]
pub struct PlaneWaves<'a> {
    /// Width of the input.
    pub width_in: usize,
    /// Width of the output.
    pub width_out: usize,
    /// `q_e width_out + p_e` of each entry.
    pub places: &'a [i64],
}

/// The left operand of a product.
#[derive(Debug, Clone, Copy)]
pub enum Tokens<'a, T> {
    /// `[tokens, width]`.
    Rows(&'a [T]),
    /// The identity of the matrix's input width.
    Identity,
}

/// Both transforms, and where the two frequencies of each entry and their mirror images lie.
struct Plans<T> {
    input: Fourier<T>,
    output: Fourier<T>,
    /// Places of q, -q, p, -p.
    entries: Vec<[usize; 4]>,
}

impl<T: Real> Plans<T> {
    fn new(waves: PlaneWaves<'_>) -> Self {
        let (input, output) = (Fourier::new(waves.width_in), Fourier::new(waves.width_out));
        let entries = waves.places.iter().map(|&place| {
            let (q, p) = (
                place as usize / waves.width_out,
                place as usize % waves.width_out,
            );
            let (mirrored_q, mirrored_p) = (
                (waves.width_in - q) % waves.width_in,
                (waves.width_out - p) % waves.width_out,
            );
            [
                input.place(q),
                input.place(mirrored_q),
                output.place(p),
                output.place(mirrored_p),
            ]
        });
        Self {
            entries: entries.collect(),
            input,
            output,
        }
    }

    /// Work of a group of tokens.
    fn cost(&self) -> usize {
        LANES * (self.input.cost() + self.output.cost() + 8 * self.entries.len())
    }

    fn forward(&self) -> Moves {
        let terms: Vec<_> = self
            .entries
            .iter()
            .map(|&[q, nq, p, np]| [[np, q], [p, nq]])
            .collect();
        Moves::new(self.output.len(), &terms)
    }

    fn backward(&self) -> Moves {
        let terms: Vec<_> = self
            .entries
            .iter()
            .map(|&[q, nq, p, np]| [[nq, p], [q, np]])
            .collect();
        Moves::new(self.input.len(), &terms)
    }
}

impl PlaneWaves<'_> {
    /// `y += s x U(c)` for `y` of `[tokens, width_out]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn apply<T: Real>(self, x: Tokens<'_, T>, c: &[T], scale: f64, y: &mut [T]) {
        let tokens = self.tokens(x);
        expect_len("c", c, self.places.len());
        expect_len("y", y, tokens * self.width_out);
        let plans = Plans::new(self);
        let moves = plans.forward();
        let half = halves(c, scale);
        let rows = GROUP * rows_per_task(tokens.div_ceil(GROUP), plans.cost());
        for_each(
            y.chunks_mut(rows * self.width_out).enumerate(),
            |(task, y)| {
                forward(&plans, (&moves, &half), x, task * rows, y);
            },
        );
    }

    /// Gradients: adds that of the input, `s gy U(c)^T`, to `gx`, and writes that of the
    /// coefficients, `gc_e = s sum_t sum_(i, j) x[t, i] gy[t, j] cos(..)`; each where it is wanted. The
    /// former needs `c`, the latter `x`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn backward<T: Real>(
        self,
        x: Tokens<'_, T>,
        [c, gy]: [&[T]; 2],
        scale: f64,
        gx: Option<&mut [T]>,
        gc: Option<&mut [T]>,
    ) {
        let tokens = expect_rows("gy", gy, self.width_out);
        let plans = Plans::new(self);
        let wanted = [gx.is_some(), gc.is_some()];
        let gx = gx.unwrap_or_default();
        let moves = plans.backward();
        let half = halves(c, scale);
        if wanted[0] {
            expect_len("c", c, self.places.len());
            expect_len("gx", gx, tokens * self.width_in);
        }
        if wanted[1] {
            let found = self.tokens(x);
            assert!(
                found == tokens,
                "x: found {found} tokens, expected {tokens}"
            );
        }
        let groups = tokens.div_ceil(GROUP);
        let task = rows_per_partial(groups, 2 * plans.cost());
        let len = if wanted[1] { self.places.len() } else { 0 };
        let outputs = parts(
            gx,
            task * GROUP * self.width_in,
            groups.div_ceil(task).max(1),
        );
        let sums = reduce(groups, task, len, outputs.into_iter(), |range, sums, gx| {
            let (start, end) = (range.start * GROUP, tokens.min(range.end * GROUP));
            let gy = &gy[start * self.width_out..end * self.width_out];
            backward(&plans, (&moves, &half), x, start, gy, (gx, sums));
        });
        if let Some(gc) = gc {
            expect_len("gc", gc, self.places.len());
            let half = T::from_f64(0.5 * scale);
            for (gc, sum) in gc.iter_mut().zip(sums) {
                *gc = sum * half;
            }
        }
    }

    fn tokens<T>(self, x: Tokens<'_, T>) -> usize {
        match x {
            Tokens::Rows(x) => expect_rows("x", x, self.width_in),
            Tokens::Identity => self.width_in,
        }
    }
}

/// Half of each coefficient: the real part of a wave is half of it and of its mirror image.
fn halves<T: Real>(c: &[T], scale: f64) -> Vec<T> {
    let half = T::from_f64(0.5 * scale);
    c.iter().map(|&c| c * half).collect()
}

/// The transforms of the group of tokens that starts at `first`.
fn transform<T: Real>(plan: &Fourier<T>, x: Tokens<'_, T>, first: usize, group: &mut Group<T>) {
    let width = plan.len();
    match x {
        Tokens::Rows(x) => {
            let end = x.len().min((first + GROUP) * width);
            group.load(&x[first * width..end], width);
        }
        Tokens::Identity => {
            group.clear();
            for token in 0..GROUP.min(width - first) {
                let part = match token < LANES {
                    true => &mut group.re,
                    false => &mut group.im,
                };
                part[first + token].0[token % LANES] = T::ONE;
            }
        }
    }
    group.forward(plan, width);
}

vectors! {
    fn forward<T, V>(
        plans: &Plans<T>,
        sums: (&Moves, &[T]),
        x: Tokens<'_, T>,
        first: usize,
        y: &mut [T],
    ) {
        let (moves, c) = sums;
        let (width_in, width_out) = (plans.input.len(), plans.output.len());
        let mut from = Group::<T>::new(width_in);
        let mut to = Group::<T>::new(width_out);
        for (at, y) in y.chunks_mut(GROUP * width_out).enumerate() {
            transform(&plans.input, x, first + at * GROUP, &mut from);
            gather::<T, V>(moves, c, &from, &mut to);
            to.inverse(&plans.output, width_out);
            to.add_to(y, width_out);
        }
    }
}

vectors! {
    /// Adds to `gx` and to twice the gradient of the coefficients, each unless it is empty.
    fn backward<T, V>(
        plans: &Plans<T>,
        sums: (&Moves, &[T]),
        x: Tokens<'_, T>,
        first: usize,
        gy: &[T],
        gradients: (&mut [T], &mut [T]),
    ) {
        let ((moves, c), (gx, gc)) = (sums, gradients);
        let (width_in, width_out) = (plans.input.len(), plans.output.len());
        let mut left = Group::<T>::new(width_in);
        let mut right = Group::<T>::new(width_out);
        for (at, gy) in gy.chunks(GROUP * width_out).enumerate() {
            right.load(gy, width_out);
            right.forward(&plans.output, width_out);
            if !gc.is_empty() {
                transform(&plans.input, x, first + at * GROUP, &mut left);
                // The two tokens of a lane are x + i x' and g + i g'. With X_q conj(G_-p) alone the
                // real part would hold their cross products, which the mirror image takes away.
                for (gc, &[q, nq, p, np]) in gc.iter_mut().zip(&plans.entries) {
                    let [(a, b), (c, d)]: [(V, V); 2] = [left.at(q), right.at(np)];
                    let [(e, f), (g, h)]: [(V, V); 2] = [left.at(nq), right.at(p)];
                    let sum = b.mul_add(d, a.times(c));
                    *gc += f.mul_add(h, e.mul_add(g, sum)).sum();
                }
            }
            if !gx.is_empty() {
                gather::<T, V>(moves, c, &right, &mut left);
                left.inverse(&plans.input, width_in);
                let start = at * GROUP * width_in;
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
            width_in in 1usize..40,
            width_out in 1usize..40,
            share in 0.0..1.0,
            seed: u64,
        ) {
            let all = width_in * width_out;
            let places: Vec<i64> = (0..(share * all as f64) as i64).map(|e| e * 41 % all as i64).collect();
            let waves = PlaneWaves { width_in, width_out, places: &places };
            let turn = |a: usize, n: usize| (a % n) as f64 / n as f64;
            let wave = |e: usize, i: usize, j: usize| {
                let (q, p) = (places[e] as usize / width_out, places[e] as usize % width_out);
                (std::f64::consts::TAU * (turn(q * i, width_in) + turn(p * j, width_out))).cos()
            };
            let c = noise(places.len(), seed);
            let (x, gy) = (noise(tokens * width_in, seed ^ 1), noise(tokens * width_out, seed ^ 2));
            let mut matrix = vec![0.0; all];
            let mut outer = vec![0.0; all];
            let (mut y, mut gx) = (gy.clone(), x.clone());
            for i in 0..width_in {
                for j in 0..width_out {
                    let u: f64 = (0..c.len()).map(|e| 2.0 * c[e] * wave(e, i, j)).sum();
                    matrix[i * width_out + j] = u;
                    for t in 0..tokens {
                        y[t * width_out + j] += x[t * width_in + i] * u;
                        gx[t * width_in + i] += gy[t * width_out + j] * u;
                        outer[i * width_out + j] += x[t * width_in + i] * gy[t * width_out + j];
                    }
                }
            }
            let gradient = |outer: &[f64]| -> Vec<f64> {
                let at = |e: usize| (0..all).map(move |k| [e, k]);
                let term = |[e, k]: [usize; 2]| 2.0 * wave(e, k / width_out, k % width_out) * outer[k];
                (0..c.len()).map(|e| at(e).map(term).sum()).collect()
            };
            let scale = (1 + all + tokens) as f64;
            let (mut found_y, mut found_gx, mut found_gc) = (gy.clone(), x.clone(), vec![1.0; c.len()]);
            waves.apply(Tokens::Rows(&x), &c, 2.0, &mut found_y);
            let given = [&c[..], &gy];
            waves.backward(Tokens::Rows(&x), given, 2.0, Some(&mut found_gx), Some(&mut found_gc));
            assert_close(&found_y, &y, |_| 1e-14 * scale);
            assert_close(&found_gx, &gx, |_| 1e-14 * scale);
            assert_close(&found_gc, &gradient(&outer), |_| 1e-14 * scale * scale);
            let (mut alone_gx, mut alone_gc) = (x.clone(), vec![1.0; c.len()]);
            waves.backward(Tokens::Rows(&x), given, 2.0, Some(&mut alone_gx), None);
            waves.backward(Tokens::Rows(&x), given, 2.0, None, Some(&mut alone_gc));
            assert_eq!((alone_gx, alone_gc), (found_gx, found_gc));
            // The matrix itself, and the gradient of its coefficients.
            let (mut found, mut found_gc) = (vec![0.0; all], vec![1.0; c.len()]);
            waves.apply(Tokens::Identity, &c, 2.0, &mut found);
            waves.backward(Tokens::Identity, [&c, &matrix], 2.0, None, Some(&mut found_gc));
            assert_close(&found, &matrix, |_| 1e-14 * scale);
            assert_close(&found_gc, &gradient(&matrix), |_| 1e-14 * scale * scale);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let places: Vec<i64> = (0..500).map(|e| e * 29).collect();
        let waves = PlaneWaves {
            width_in: 150,
            width_out: 100,
            places: &places,
        };
        let x = narrow(&noise(2501 * 150, 1));
        let gy = narrow(&noise(2501 * 100, 2));
        let c = narrow(&noise(500, 3));
        assert_thread_independent(|| {
            let (mut y, mut gx, mut gc) = (gy.clone(), x.clone(), c.clone());
            waves.apply(Tokens::Rows(&x), &c, 1.0, &mut y);
            let given = [&c[..], &gy];
            waves.backward(Tokens::Rows(&x), given, 1.0, Some(&mut gx), Some(&mut gc));
            [y, gx, gc].concat()
        });
    }
}
