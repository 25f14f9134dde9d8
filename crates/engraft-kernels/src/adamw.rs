//! AdamW in one pass over its four arrays.

use crate::parallel::{for_each, rows_per_task};
use crate::{Real, expect_len};

/// Work of one element, in the unit of [`rows_per_task`].
const COST: usize = 16;

/// Hyperparameters of AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), with PyTorch's
/// defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub eps: f64,
    /// Decoupled weight decay; a step shrinks values by `lr * weight_decay`.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }
}

/// One parameter and its state; the four arrays have one length.
#[derive(Debug)]
pub struct Parameter<'a, T> {
    /// The parameter, updated.
    pub values: &'a mut [T],
    /// Its gradient.
    pub gradient: &'a [T],
    /// Moving average of the gradient, updated; zeros before the first step.
    pub first_moment: &'a mut [T],
    /// Moving average of the squared gradient, updated; zeros before the first step.
    pub second_moment: &'a mut [T],
    /// Learning rate.
    pub lr: f64,
    /// Number of this step of the parameter, counted from 1.
    pub step: u64,
}

/// What one step multiplies by, after bias correction.
#[derive(Clone, Copy)]
struct Factors<T> {
    keep: T,
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
    step_size: T,
    eps: T,
}

/// A run of one parameter: values, gradient and both moments.
struct Chunk<'a, T> {
    values: &'a mut [T],
    gradient: &'a [T],
    first_moment: &'a mut [T],
    second_moment: &'a mut [T],
    factors: Factors<T>,
}

impl AdamW {
    /// Makes a step on every parameter, as PyTorch's `AdamW` does:
    ///
    /// ```text
    /// p <- p (1 - lr weight_decay)
    /// m <- m + (1 - beta1) (g - m)          v <- beta2 v + (1 - beta2) g^2
    /// p <- p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
    /// ```
    ///
    /// One pass: four numbers read and three written for each of a parameter.
    ///
    /// # Panics
    ///
    /// If a `step` is 0 or the arrays of a parameter differ in length.
    pub fn step<T: Real>(&self, parameters: Vec<Parameter<'_, T>>) {
        let total = parameters.iter().map(|p| p.values.len()).sum();
        let len = rows_per_task(total, COST);
        let tasks: Vec<_> = parameters
            .into_iter()
            .flat_map(|parameter| {
                let factors = self.factors(parameter.lr, parameter.step);
                parameter.chunks(len, factors)
            })
            .collect();
        for_each(tasks.into_iter(), update);
    }

    /// With `c = sqrt(1 - beta2^step)` the last line of a step is
    /// `p <- p - lr c / (1 - beta1^step) * m / (sqrt(v) + eps c)`, which divides once.
    fn factors<T: Real>(&self, lr: f64, step: u64) -> Factors<T> {
        assert!(step > 0, "step: found 0, expected at least 1");
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let root = correction(self.beta2).sqrt();
        Factors {
            keep: T::from_f64(1.0 - lr * self.weight_decay),
            one_minus_beta1: T::from_f64(1.0 - self.beta1),
            beta2: T::from_f64(self.beta2),
            one_minus_beta2: T::from_f64(1.0 - self.beta2),
            step_size: T::from_f64(lr * root / correction(self.beta1)),
            eps: T::from_f64(self.eps * root),
        }
    }
}

impl<'a, T: Real> Parameter<'a, T> {
    fn chunks(self, len: usize, factors: Factors<T>) -> impl Iterator<Item = Chunk<'a, T>> {
        let count = self.values.len();
        expect_len("gradient", self.gradient, count);
        expect_len("first_moment", self.first_moment, count);
        expect_len("second_moment", self.second_moment, count);
        let moments = self
            .first_moment
            .chunks_mut(len)
            .zip(self.second_moment.chunks_mut(len));
        let arrays = self
            .values
            .chunks_mut(len)
            .zip(self.gradient.chunks(len))
            .zip(moments);
        arrays.map(
            move |((values, gradient), (first_moment, second_moment))| Chunk {
                values,
                gradient,
                first_moment,
                second_moment,
                factors,
            },
        )
    }
}

simd! {
    fn update<T, const FUSED: bool>(chunk: Chunk<'_, T>) {
        let Chunk { values, gradient, first_moment, second_moment, factors: f } = chunk;
        let moments = first_moment.iter_mut().zip(second_moment);
        for ((p, &g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
            *m = f.one_minus_beta1.mul_add::<FUSED>(g - *m, *m);
            *v = f.beta2.mul_add::<FUSED>(*v, f.one_minus_beta2 * g * g);
            let ratio = *m / (v.sqrt() + f.eps);
            *p = f.keep.mul_add::<FUSED>(*p, -(f.step_size * ratio));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    /// The algorithm of the paper with bias-corrected moments, number by number.
    fn reference(hyper: AdamW, lr: f64, steps: &[Vec<f64>], start: &[f64]) -> Vec<f64> {
        let AdamW {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = hyper;
        let run = |i: usize| {
            let (mut p, mut m, mut v) = (start[i], 0.0, 0.0);
            for (t, g) in (1..).zip(steps.iter().map(|g| g[i])) {
                m = beta1 * m + (1.0 - beta1) * g;
                v = beta2 * v + (1.0 - beta2) * g * g;
                let (m_hat, v_hat) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
                p = p - lr * weight_decay * p - lr * m_hat / (v_hat.sqrt() + eps);
            }
            p
        };
        (0..start.len()).map(run).collect()
    }

    fn train<T: Real>(hyper: AdamW, lr: f64, steps: &[Vec<T>], start: &[T]) -> Vec<T> {
        let mut values = start.to_vec();
        let (mut m, mut v) = (vec![T::ZERO; start.len()], vec![T::ZERO; start.len()]);
        for (t, gradient) in (1..).zip(steps) {
            // As two parameters, which must not differ from one.
            let cut = start.len() / 3;
            let (values, m, v) = (
                values.split_at_mut(cut),
                m.split_at_mut(cut),
                v.split_at_mut(cut),
            );
            let (a, b) = gradient.split_at(cut);
            let both = [(values.0, a, m.0, v.0), (values.1, b, m.1, v.1)];
            let parameters =
                both.map(
                    |(values, gradient, first_moment, second_moment)| Parameter {
                        values,
                        gradient,
                        first_moment,
                        second_moment,
                        lr,
                        step: t,
                    },
                );
            hyper.step(parameters.into());
        }
        values
    }

    proptest! {
        #[test]
        fn agrees_with_the_algorithm(
            len in 0usize..70, count in 1usize..6, seed: u64,
            lr in 1e-4..0.1f64, weight_decay in 0.0..0.5f64, beta1 in 0.0..0.99f64,
        ) {
            let hyper = AdamW { weight_decay, beta1, ..AdamW::default() };
            let start = noise(len, seed);
            let steps: Vec<_> = (0..count).map(|t| noise(len, seed ^ (t as u64 + 1))).collect();
            let expected = reference(hyper, lr, &steps, &start);
            assert_close(&train(hyper, lr, &steps, &start), &expected, |_| 1e-13);
            let steps: Vec<_> = steps.iter().map(|g| narrow(g)).collect();
            let start = narrow(&start);
            let wide: Vec<_> = steps.iter().map(|g| widen(g)).collect();
            let expected = reference(hyper, lr, &wide, &widen(&start));
            assert_close(&train(hyper, lr, &steps, &start), &expected, |_| {
                2f64.powi(-24) * count as f64 * (4.0 + 200.0 * lr)
            });
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let steps: Vec<_> = (1..4).map(|t| narrow(&noise(300_001, t))).collect();
        assert_thread_independent(|| train(AdamW::default(), 1e-3, &steps, &steps[0]));
    }

    #[test]
    fn zero_gradients_only_decay_and_nan_stays_where_it_is() {
        let hyper = AdamW {
            weight_decay: 0.5,
            ..AdamW::default()
        };
        let p = train(
            hyper,
            0.1,
            &[vec![0.0f32, f32::NAN, 0.0]],
            &[1.0, 1.0, -2.0],
        );
        assert_eq!([p[0], p[2]], [0.95, -1.9]);
        assert!(p[1].is_nan());
    }
}
