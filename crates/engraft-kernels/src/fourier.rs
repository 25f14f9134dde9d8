//! Discrete Fourier transforms of any length, many at a time.

use crate::Real;
use crate::vector::{Line, Vector};

/// A pass of the transform over blocks of `radix span` points.
#[derive(Debug)]
struct Stage<T> {
    radix: usize,
    /// Distance of the points of a butterfly.
    span: usize,
    /// `e^(-2 pi i k j / (radix span))` for `k < span`, `1 <= j < radix`.
    twiddles: Vec<(T, T)>,
    /// `e^(-2 pi i j / radix)` for `j < radix`.
    roots: Vec<(T, T)>,
}

/// `X_k = sum_j x_j e^(-2 pi i j k / len)` by mixed radices in place, in O(len times the sum of its
/// prime factors).
///
/// Arrays hold `len` vectors, real and imaginary parts apart: one transform in each lane. The
/// spectrum is left in the order in which the passes produce it, which a pointwise product does
/// not mind and from which [`inverse`](Self::inverse) returns; [`place`](Self::place) tells where a
/// frequency lies. Blocks are finished one after the other, so that all but the first passes run
/// in the first cache.
#[derive(Debug)]
pub(crate) struct Fourier<T> {
    len: usize,
    stages: Vec<Stage<T>>,
}

/// Real and imaginary parts.
type Complex<V> = (V, V);

impl<T: Real> Fourier<T> {
    pub(crate) fn new(len: usize) -> Self {
        let mut stages = Vec::new();
        let mut left = len;
        while left > 1 {
            let radix = match left {
                _ if left.is_multiple_of(4) => 4,
                _ => (2..).find(|p| left.is_multiple_of(*p)).unwrap_or(left),
            };
            let span = left / radix;
            let twiddles = (0..span)
                .flat_map(|k| (1..radix).map(move |j| root(k * j, radix * span)))
                .collect();
            let roots = (0..radix).map(|j| root(j, radix)).collect();
            stages.push(Stage {
                radix,
                span,
                twiddles,
                roots,
            });
            left = span;
        }
        Self { len, stages }
    }

    /// Points.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Work of the transform of one lane, in the unit of [`crate::parallel`].
    pub(crate) fn cost(&self) -> usize {
        let radices: usize = self.stages.iter().map(|stage| 2 * stage.radix).sum();
        self.len * radices.max(1)
    }

    /// Where frequency `k` lies in a spectrum.
    pub(crate) fn place(&self, mut k: usize) -> usize {
        let mut place = 0;
        for stage in &self.stages {
            place += k % stage.radix * stage.span;
            k /= stage.radix;
        }
        place
    }

    /// Transforms `re + i im`.
    pub(crate) fn forward(&self, re: &mut [Line<T>], im: &mut [Line<T>]) {
        forward(self, &mut re[..self.len], &mut im[..self.len]);
    }

    /// `len` times the inverse of [`forward`](Self::forward).
    pub(crate) fn inverse(&self, re: &mut [Line<T>], im: &mut [Line<T>]) {
        // With the parts exchanged, a transform runs backwards.
        backward(self, &mut im[..self.len], &mut re[..self.len]);
    }
}

vectors! {
    fn forward<T, V>(plan: &Fourier<T>, re: &mut [Line<T>], im: &mut [Line<T>]) {
        for stage in &plan.stages {
            let blocks = re.chunks_exact_mut(stage.len());
            for (re, im) in blocks.zip(im.chunks_exact_mut(stage.len())) {
                stage.forward::<V>(re, im);
            }
        }
    }
}

vectors! {
    fn backward<T, V>(plan: &Fourier<T>, re: &mut [Line<T>], im: &mut [Line<T>]) {
        for stage in plan.stages.iter().rev() {
            let blocks = re.chunks_exact_mut(stage.len());
            for (re, im) in blocks.zip(im.chunks_exact_mut(stage.len())) {
                stage.backward::<V>(re, im);
            }
        }
    }
}

/// `e^(-2 pi i j / n)`.
fn root<T: Real>(j: usize, n: usize) -> (T, T) {
    let angle = -std::f64::consts::TAU * ((j % n) as f64 / n as f64);
    (T::from_f64(angle.cos()), T::from_f64(angle.sin()))
}

impl<T: Real> Stage<T> {
    /// Points of a block.
    #[inline(always)]
    fn len(&self) -> usize {
        self.radix * self.span
    }

    /// Butterflies, then twiddle factors.
    #[inline(always)]
    fn forward<V: Vector<T>>(&self, re: &mut [Line<T>], im: &mut [Line<T>]) {
        let span = self.span;
        match self.radix {
            2 => {
                for (k, w) in self.twiddles.iter().enumerate() {
                    let [a, b] = load::<T, V, _>(re, im, [k, k + span]);
                    let [a, b] = two::<T, V>(a, b);
                    store(re, im, [k, k + span], [a, times::<T, V>(b, *w)]);
                }
            }
            4 => {
                for (k, w) in self.twiddles.as_chunks::<3>().0.iter().enumerate() {
                    let at = [k, k + span, k + 2 * span, k + 3 * span];
                    let [a, b, c, d] = four::<T, V>(load::<T, V, _>(re, im, at));
                    let values = [
                        a,
                        times::<T, V>(b, w[0]),
                        times::<T, V>(c, w[1]),
                        times::<T, V>(d, w[2]),
                    ];
                    store(re, im, at, values);
                }
            }
            3 => {
                let root = self.roots[1];
                for (k, w) in self.twiddles.as_chunks::<2>().0.iter().enumerate() {
                    let at = [k, k + span, k + 2 * span];
                    let [a, b, c] = three::<T, V>(load::<T, V, _>(re, im, at), root);
                    let values = [a, times::<T, V>(b, w[0]), times::<T, V>(c, w[1])];
                    store(re, im, at, values);
                }
            }
            radix => {
                let mut points = vec![(V::splat(T::ZERO), V::splat(T::ZERO)); radix];
                for (k, w) in self.twiddles.chunks_exact(radix - 1).enumerate() {
                    for (r, point) in points.iter_mut().enumerate() {
                        [*point] = load::<T, V, 1>(re, im, [k + r * span]);
                    }
                    for j in 0..radix {
                        let mut sum = self.sum::<V>(&points, j);
                        if j > 0 {
                            sum = times::<T, V>(sum, w[j - 1]);
                        }
                        store(re, im, [k + j * span], [sum]);
                    }
                }
            }
        }
    }

    /// Twiddle factors, then butterflies.
    #[inline(always)]
    fn backward<V: Vector<T>>(&self, re: &mut [Line<T>], im: &mut [Line<T>]) {
        let span = self.span;
        match self.radix {
            2 => {
                for (k, w) in self.twiddles.iter().enumerate() {
                    let [a, b] = load::<T, V, _>(re, im, [k, k + span]);
                    store(re, im, [k, k + span], two::<T, V>(a, times::<T, V>(b, *w)));
                }
            }
            4 => {
                for (k, w) in self.twiddles.as_chunks::<3>().0.iter().enumerate() {
                    let at = [k, k + span, k + 2 * span, k + 3 * span];
                    let [a, b, c, d] = load::<T, V, _>(re, im, at);
                    let values = [
                        a,
                        times::<T, V>(b, w[0]),
                        times::<T, V>(c, w[1]),
                        times::<T, V>(d, w[2]),
                    ];
                    store(re, im, at, four::<T, V>(values));
                }
            }
            3 => {
                let root = self.roots[1];
                for (k, w) in self.twiddles.as_chunks::<2>().0.iter().enumerate() {
                    let at = [k, k + span, k + 2 * span];
                    let [a, b, c] = load::<T, V, _>(re, im, at);
                    let values = [a, times::<T, V>(b, w[0]), times::<T, V>(c, w[1])];
                    store(re, im, at, three::<T, V>(values, root));
                }
            }
            radix => {
                let mut points = vec![(V::splat(T::ZERO), V::splat(T::ZERO)); radix];
                for (k, w) in self.twiddles.chunks_exact(radix - 1).enumerate() {
                    for (r, point) in points.iter_mut().enumerate() {
                        [*point] = load::<T, V, 1>(re, im, [k + r * span]);
                        if r > 0 {
                            *point = times::<T, V>(*point, w[r - 1]);
                        }
                    }
                    for j in 0..radix {
                        let sum = self.sum::<V>(&points, j);
                        store(re, im, [k + j * span], [sum]);
                    }
                }
            }
        }
    }

    /// Output `j` of a butterfly, by its definition.
    #[inline(always)]
    fn sum<V: Vector<T>>(&self, points: &[Complex<V>], j: usize) -> Complex<V> {
        let mut sum = points[0];
        let mut turn = 0;
        for point in &points[1..] {
            turn += j;
            if turn >= self.radix {
                turn -= self.radix;
            }
            let term = times::<T, V>(*point, self.roots[turn]);
            sum = (sum.0.plus(term.0), sum.1.plus(term.1));
        }
        sum
    }
}

#[inline(always)]
fn load<T: Real, V: Vector<T>, const N: usize>(
    re: &[Line<T>],
    im: &[Line<T>],
    at: [usize; N],
) -> [Complex<V>; N] {
    let mut values = [(V::splat(T::ZERO), V::splat(T::ZERO)); N];
    for (value, at) in values.iter_mut().zip(at) {
        *value = (V::load(&re[at].0), V::load(&im[at].0));
    }
    values
}

#[inline(always)]
fn store<T, V: Vector<T>, const N: usize>(
    re: &mut [Line<T>],
    im: &mut [Line<T>],
    at: [usize; N],
    values: [Complex<V>; N],
) {
    for (at, value) in at.into_iter().zip(values) {
        value.0.store(&mut re[at].0);
        value.1.store(&mut im[at].0);
    }
}

/// The product with a complex number.
#[inline(always)]
fn times<T: Real, V: Vector<T>>(a: Complex<V>, b: (T, T)) -> Complex<V> {
    let (re, im) = (V::splat(b.0), V::splat(b.1));
    let turned = (a.1.times(V::splat(-b.1)), a.0.times(im));
    (a.0.mul_add(re, turned.0), a.1.mul_add(re, turned.1))
}

#[inline(always)]
fn two<T, V: Vector<T>>(a: Complex<V>, b: Complex<V>) -> [Complex<V>; 2] {
    [
        (a.0.plus(b.0), a.1.plus(b.1)),
        (a.0.minus(b.0), a.1.minus(b.1)),
    ]
}

#[inline(always)]
fn three<T: Real, V: Vector<T>>([a, b, c]: [Complex<V>; 3], root: (T, T)) -> [Complex<V>; 3] {
    let [sum, difference] = two::<T, V>(b, c);
    // a + Re(root) (b + c), and i Im(root) (b - c).
    let (re, im) = (V::splat(root.0), V::splat(root.1));
    let even = (sum.0.mul_add(re, a.0), sum.1.mul_add(re, a.1));
    let odd = (
        difference.1.times(V::splat(-root.1)),
        difference.0.times(im),
    );
    let [second, third] = two::<T, V>(even, odd);
    [(a.0.plus(sum.0), a.1.plus(sum.1)), second, third]
}

#[inline(always)]
fn four<T, V: Vector<T>>([a, b, c, d]: [Complex<V>; 4]) -> [Complex<V>; 4] {
    let ([even, x], [odd, y]) = (two::<T, V>(a, c), two::<T, V>(b, d));
    let [first, third] = two::<T, V>(even, odd);
    // x - i y and x + i y.
    let second = (x.0.plus(y.1), x.1.minus(y.0));
    let fourth = (x.0.minus(y.1), x.1.plus(y.0));
    [first, second, third, fourth]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::vector::LANES;

    type Lanes = Line<f64>;

    #[test]
    fn every_length_is_the_definition_and_the_inverse_returns() {
        for len in [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 24, 32, 48, 60, 64, 77] {
            let plan = Fourier::<f64>::new(len);
            let vectors = |seed| -> Vec<Lanes> {
                let values = noise(len * LANES, seed);
                values.as_chunks().0.iter().map(Lanes::load).collect()
            };
            let numbers = |vector: Lanes| {
                let mut numbers = [0.0; LANES];
                vector.store(&mut numbers);
                numbers
            };
            let (re, im) = (vectors(1), vectors(2));
            let (mut x, mut y) = (re.clone(), im.clone());
            plan.forward(&mut x, &mut y);
            for lane in [0, 5, LANES - 1] {
                for k in 0..len {
                    let (mut sum_re, mut sum_im) = (0.0, 0.0);
                    for j in 0..len {
                        let (a, b): (f64, f64) = root(j * k, len);
                        let (re, im) = (numbers(re[j])[lane], numbers(im[j])[lane]);
                        sum_re += re * a - im * b;
                        sum_im += re * b + im * a;
                    }
                    let at = plan.place(k);
                    let (x, y) = (numbers(x[at])[lane], numbers(y[at])[lane]);
                    let error = (x - sum_re).abs() + (y - sum_im).abs();
                    assert!(error < 1e-14 * len as f64, "{len} {k}: {error:e}");
                }
            }
            plan.inverse(&mut x, &mut y);
            for (&found, &given) in x.iter().zip(&re).chain(y.iter().zip(&im)) {
                for (found, given) in numbers(found).iter().zip(numbers(given)) {
                    assert!((found / len as f64 - given).abs() < 1e-14);
                }
            }
        }
    }
}
