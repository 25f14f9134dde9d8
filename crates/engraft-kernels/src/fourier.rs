//! Discrete Fourier transforms of any length, many at a time.

use crate::Real;

/// Transforms that run side by side, one in each vector lane.
pub(crate) const LANES: usize = 16;

/// A pass of the transform: butterflies of `radix` points at distance `span`, `stride` apart.
#[derive(Debug)]
struct Stage<T> {
    radix: usize,
    /// Butterflies with different twiddle factors.
    span: usize,
    /// Product of the radices before.
    stride: usize,
    /// `e^(-2 pi i k j / (radix span))` for `k < span`, `j < radix`.
    twiddles: Vec<(T, T)>,
    /// `e^(-2 pi i j / radix)` for `j < radix`.
    roots: Vec<(T, T)>,
}

/// `X_k = sum_j x_j e^(-2 pi i j k / len)` by mixed radices in natural order (Stockham), in
/// O(len times the sum of its prime factors).
///
/// Arrays hold `[len, LANES]`, real and imaginary parts apart. The inverse without its factor
/// `1 / len` is the same transform with the two parts exchanged before and after.
#[derive(Debug)]
pub(crate) struct Fourier<T> {
    len: usize,
    stages: Vec<Stage<T>>,
}

impl<T: Real> Fourier<T> {
    pub(crate) fn new(len: usize) -> Self {
        let mut stages = Vec::new();
        let (mut left, mut stride) = (len, 1);
        while left > 1 {
            let radix = match left {
                _ if left.is_multiple_of(4) => 4,
                _ => (2..).find(|p| left.is_multiple_of(*p)).unwrap_or(left),
            };
            let span = left / radix;
            let twiddles = (0..span)
                .flat_map(|k| (0..radix).map(move |j| root(k * j, radix * span)))
                .collect();
            let roots = (0..radix).map(|j| root(j, radix)).collect();
            stages.push(Stage {
                radix,
                span,
                stride,
                twiddles,
                roots,
            });
            left = span;
            stride *= radix;
        }
        Self { len, stages }
    }

    /// Work of the transform of one lane, in the unit of [`crate::parallel`].
    pub(crate) fn cost(&self) -> usize {
        let radices: usize = self.stages.iter().map(|stage| 2 * stage.radix).sum();
        self.len * radices.max(1)
    }

    /// Transforms `re + i im`; `spare` has the length of both together.
    #[inline(always)]
    pub(crate) fn run<const FUSED: bool>(&self, re: &mut [T], im: &mut [T], spare: &mut [T]) {
        let size = self.len * LANES;
        let (re, im) = (&mut re[..size], &mut im[..size]);
        let (spare_re, spare_im) = spare[..2 * size].split_at_mut(size);
        for (at, stage) in self.stages.iter().enumerate() {
            if at % 2 == 0 {
                stage.pass::<FUSED>((re, im), (spare_re, spare_im));
            } else {
                stage.pass::<FUSED>((spare_re, spare_im), (re, im));
            }
        }
        if self.stages.len() % 2 == 1 {
            re.copy_from_slice(spare_re);
            im.copy_from_slice(spare_im);
        }
    }
}

/// `e^(-2 pi i j / n)`.
fn root<T: Real>(j: usize, n: usize) -> (T, T) {
    let angle = -std::f64::consts::TAU * ((j % n) as f64 / n as f64);
    (T::from_f64(angle.cos()), T::from_f64(angle.sin()))
}

impl<T: Real> Stage<T> {
    #[inline(always)]
    fn pass<const FUSED: bool>(&self, from: (&[T], &[T]), to: (&mut [T], &mut [T])) {
        let width = self.stride * LANES;
        for k in 0..self.span {
            let twiddles = &self.twiddles[k * self.radix..][..self.radix];
            let run = self.radix * width;
            let to = (&mut to.0[k * run..][..run], &mut to.1[k * run..][..run]);
            let input = |r: usize| {
                let start = (k + self.span * r) * width;
                (&from.0[start..][..width], &from.1[start..][..width])
            };
            match self.radix {
                2 => two::<T, FUSED>([input(0), input(1)], twiddles[1], to, width),
                4 => {
                    let inputs = [input(0), input(1), input(2), input(3)];
                    four::<T, FUSED>(inputs, [twiddles[1], twiddles[2], twiddles[3]], to, width);
                }
                _ => self.any::<FUSED>(input, twiddles, to, width),
            }
        }
    }

    /// A butterfly of any radix, by its definition.
    #[inline(always)]
    fn any<'a, const FUSED: bool>(
        &self,
        input: impl Fn(usize) -> (&'a [T], &'a [T]),
        twiddles: &[(T, T)],
        to: (&mut [T], &mut [T]),
        width: usize,
    ) {
        for (j, &twiddle) in twiddles.iter().enumerate() {
            let (re, im) = (
                &mut to.0[j * width..][..width],
                &mut to.1[j * width..][..width],
            );
            let (first_re, first_im) = input(0);
            re.copy_from_slice(first_re);
            im.copy_from_slice(first_im);
            for r in 1..self.radix {
                let (a_re, a_im) = input(r);
                let root = self.roots[r * j % self.radix];
                for q in 0..width {
                    let (x, y) = times::<T, FUSED>((a_re[q], a_im[q]), root);
                    re[q] += x;
                    im[q] += y;
                }
            }
            for q in 0..width {
                (re[q], im[q]) = times::<T, FUSED>((re[q], im[q]), twiddle);
            }
        }
    }
}

/// The product of two complex numbers.
#[inline(always)]
fn times<T: Real, const FUSED: bool>(a: (T, T), b: (T, T)) -> (T, T) {
    (
        a.0.mul_add::<FUSED>(b.0, -(a.1 * b.1)),
        a.0.mul_add::<FUSED>(b.1, a.1 * b.0),
    )
}

#[inline(always)]
fn two<T: Real, const FUSED: bool>(
    [a, b]: [(&[T], &[T]); 2],
    twiddle: (T, T),
    to: (&mut [T], &mut [T]),
    width: usize,
) {
    let (re0, re1) = to.0.split_at_mut(width);
    let (im0, im1) = to.1.split_at_mut(width);
    let (a, b) = (
        (&a.0[..width], &a.1[..width]),
        (&b.0[..width], &b.1[..width]),
    );
    let (re1, im1) = (&mut re1[..width], &mut im1[..width]);
    for q in 0..width {
        let (x, y) = ((a.0[q], a.1[q]), (b.0[q], b.1[q]));
        (re0[q], im0[q]) = (x.0 + y.0, x.1 + y.1);
        (re1[q], im1[q]) = times::<T, FUSED>((x.0 - y.0, x.1 - y.1), twiddle);
    }
}

#[inline(always)]
fn four<T: Real, const FUSED: bool>(
    inputs: [(&[T], &[T]); 4],
    [w1, w2, w3]: [(T, T); 3],
    to: (&mut [T], &mut [T]),
    width: usize,
) {
    let [a, b, c, d] = inputs.map(|(re, im)| (&re[..width], &im[..width]));
    let (re0, rest) = to.0.split_at_mut(width);
    let (re1, rest) = rest.split_at_mut(width);
    let (re2, re3) = rest.split_at_mut(width);
    let (im0, rest) = to.1.split_at_mut(width);
    let (im1, rest) = rest.split_at_mut(width);
    let (im2, im3) = rest.split_at_mut(width);
    let (re3, im3) = (&mut re3[..width], &mut im3[..width]);
    for q in 0..width {
        let (even, odd) = (
            (a.0[q] + c.0[q], a.1[q] + c.1[q]),
            (b.0[q] + d.0[q], b.1[q] + d.1[q]),
        );
        let (x, y) = (
            (a.0[q] - c.0[q], a.1[q] - c.1[q]),
            (b.0[q] - d.0[q], b.1[q] - d.1[q]),
        );
        (re0[q], im0[q]) = (even.0 + odd.0, even.1 + odd.1);
        (re2[q], im2[q]) = times::<T, FUSED>((even.0 - odd.0, even.1 - odd.1), w2);
        // x - i y and x + i y.
        (re1[q], im1[q]) = times::<T, FUSED>((x.0 + y.1, x.1 - y.0), w1);
        (re3[q], im3[q]) = times::<T, FUSED>((x.0 - y.1, x.1 + y.0), w3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};

    #[test]
    fn every_length_is_the_definition_and_the_inverse_returns() {
        for len in [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 24, 32, 48, 60, 64, 77] {
            let plan = Fourier::<f64>::new(len);
            let (re, im) = (noise(len * LANES, 1), noise(len * LANES, 2));
            let (mut x, mut y) = (re.clone(), im.clone());
            let mut spare = vec![0.0; 2 * len * LANES];
            plan.run::<false>(&mut x, &mut y, &mut spare);
            for lane in [0, 5, LANES - 1] {
                for k in 0..len {
                    let (mut sum_re, mut sum_im) = (0.0, 0.0);
                    for j in 0..len {
                        let at = j * LANES + lane;
                        let value = times::<f64, false>((re[at], im[at]), root(j * k, len));
                        sum_re += value.0;
                        sum_im += value.1;
                    }
                    let at = k * LANES + lane;
                    let error = (x[at] - sum_re).abs() + (y[at] - sum_im).abs();
                    assert!(error < 1e-14 * len as f64, "{len} {k}: {error:e}");
                }
            }
            plan.run::<false>(&mut y, &mut x, &mut spare);
            let scaled: Vec<f64> = x.iter().map(|x| x / len as f64).collect();
            assert_close(&scaled, &re, |_| 1e-14);
        }
    }
}
