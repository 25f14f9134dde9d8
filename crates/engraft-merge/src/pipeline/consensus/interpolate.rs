//! Combinations whose coefficients follow from lengths and angles of the updates.

use serde::{Deserialize, Serialize};

use super::{average, weights};
use crate::error::{Error, Result};
use crate::pipeline::prepare::Prepared;

/// From dW_0 to dW_1 along the arc between their directions: for the angle theta between them,
///
/// ```text
/// dW = m (sin((1 - t) theta) dW_0 / ‖dW_0‖ + sin(t theta) dW_1 / ‖dW_1‖) / sin theta
/// m = (1 - t) ‖dW_0‖ + t ‖dW_1‖
/// ```
///
/// (Shoemake 1985, section 3.3). On a line, and where an update is zero: (1 - t) dW_0 + t dW_1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Slerp {
    /// Where on the arc, from 0 to 1; left out, the second weight's share of both.
    pub t: Option<f64>,
    /// What becomes of the lengths.
    pub magnitudes: Magnitudes,
}

/// What becomes of the lengths of two updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Magnitudes {
    /// They are interpolated: m above.
    #[default]
    Interpolated,
    /// Each update keeps its own in the sum, which is then no arc unless they are equal: m is ‖dW_0‖ for the
    /// first and ‖dW_1‖ for the second. What checkpoint mergers do.
    Own,
}

/// |cos theta| from which on two updates lie on a line.
const PARALLEL: f64 = 0.9995;

impl Slerp {
    pub(super) fn check(&self) -> Result<()> {
        match self.t.is_none_or(|t| (0.0..=1.0).contains(&t)) {
            true => Ok(()),
            false => Err(Error::input(format!(
                "slerp: t is {}, expected a number from 0 (the first adapter) to 1 (the second)",
                self.t.unwrap_or(f64::NAN)
            ))),
        }
    }

    pub(super) fn coefficients(&self, tasks: &[Prepared]) -> Result<Vec<f64>> {
        let [first, second] = tasks else {
            return Err(Error::input(format!(
                "slerp goes from one adapter to another, found {}: for more, `average`",
                tasks.len()
            )));
        };
        let weights = weights(tasks);
        let t = match self.t {
            None => average::shares(&weights)?[1],
            Some(t) if weights[0] == weights[1] => t,
            Some(_) => {
                return Err(Error::input(format!(
                    "slerp with t and the weights {weights:?}: expected one or the other"
                )));
            }
        };
        if !(0.0..=1.0).contains(&t) {
            return Err(Error::input(format!(
                "slerp with the weights {weights:?}: expected none negative"
            )));
        }
        let norms = [first.dot(first)?, second.dot(second)?].map(|square| square.max(0.0).sqrt());
        let cosine = first.dot(second)? / (norms[0] * norms[1]);
        // Not a number where one of them is zero.
        if cosine.is_nan() || cosine.abs() > PARALLEL {
            return Ok(vec![1.0 - t, t]);
        }
        let theta = cosine.acos();
        let along = [(1.0 - t) * theta, t * theta].map(|part| part.sin() / theta.sin());
        Ok(match self.magnitudes {
            Magnitudes::Own => along.to_vec(),
            Magnitudes::Interpolated => {
                let length = (1.0 - t) * norms[0] + t * norms[1];
                vec![along[0] * length / norms[0], along[1] * length / norms[1]]
            }
        })
    }
}

/// Coefficients of Model Stock: t times the shares of the weights, with
///
/// ```text
/// t = N cos theta / (1 + (N - 1) cos theta)
/// ```
///
/// for N tasks and the mean cosine of the angles between their updates (2403.19522, section 4.1; the paper
/// has equal weights). A mean cosine below zero counts as zero: the base.
pub(super) fn model_stock(tasks: &[Prepared]) -> Result<Vec<f64>> {
    let shares = average::shares(&weights(tasks))?;
    let norms = tasks.iter().map(|task| Ok(task.dot(task)?.max(0.0).sqrt()));
    let norms: Vec<f64> = norms.collect::<Result<_>>()?;
    let (mut sum, mut pairs) = (0.0, 0.0);
    for (i, first) in tasks.iter().enumerate() {
        for (j, second) in tasks.iter().enumerate().skip(i + 1) {
            let product = norms[i] * norms[j];
            if product > 0.0 {
                sum += (first.dot(second)? / product).clamp(-1.0, 1.0);
            }
            pairs += 1.0;
        }
    }
    let count = tasks.len() as f64;
    let t = match pairs == 0.0 {
        true => 1.0,
        false => {
            let cosine = (sum / pairs).max(0.0);
            count * cosine / (1.0 + (count - 1.0) * cosine)
        }
    };
    Ok(shares.into_iter().map(|share| t * share).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use crate::pipeline::testing::{close, dense, low_rank, merged, method, update};
    use crate::update::{Dense, Update};

    fn whole(update: &Update, base: &[f32]) -> Dense {
        update.to_dense(Some(base)).unwrap()
    }

    fn dot(a: &Dense, b: &Dense) -> f64 {
        let products = a.data.iter().zip(&b.data);
        products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    proptest! {
        #[test]
        fn the_arc(seed: u64, other: u64, t in 0.0..=1.0) {
            let base: Vec<f32> = (0..30).map(|x| (x as f32).cos()).collect();
            let updates = [update(5, 6, seed), update(5, 6, other ^ 1)];
            let [a, b] = [0, 1].map(|at| whole(&updates[at], &base));
            let at = |t: f64, updates: &[Update], magnitudes: &str| {
                let pipeline = method("slerp", json!({"t": t, "magnitudes": magnitudes}));
                whole(&merged(&pipeline, updates, &[1.0, 1.0], &base).unwrap(), &base)
            };
            for magnitudes in ["interpolated", "own"] {
                close(&at(0.0, &updates, magnitudes).data, &a.data, 1e-5);
                close(&at(1.0, &updates, magnitudes).data, &b.data, 1e-5);
                let swapped = [updates[1].clone(), updates[0].clone()];
                close(&at(t, &updates, magnitudes).data, &at(1.0 - t, &swapped, magnitudes).data, 1e-4);
            }
            // Its length is interpolated, its angle to the first is t theta.
            let cosine = dot(&a, &b) / (a.norm() * b.norm());
            prop_assume!(cosine.abs() < 0.99);
            let found = at(t, &updates, "interpolated");
            let length = (1.0 - t) * a.norm() + t * b.norm();
            prop_assert!((found.norm() - length).abs() <= 1e-4 * length);
            let angle = (dot(&a, &found) / (a.norm() * found.norm())).clamp(-1.0, 1.0).acos();
            prop_assert!((angle - t * cosine.acos()).abs() <= 2e-3, "{angle} {}", t * cosine.acos());
            let shares = method("slerp", json!({}));
            let from_weights = merged(&shares, &updates, &[2.0 * (1.0 - t), 2.0 * t], &base).unwrap();
            close(&whole(&from_weights, &base).data, &found.data, 1e-4);
        }

        #[test]
        fn factors_and_numbers_give_the_same_angles(seed: u64, t in 0.0..=1.0) {
            let factored = [0, 1, 2].map(|at| low_rank(8, 5, 2, seed ^ at));
            let numbers = factored.clone().map(|update| Update::dense(whole(&update, &[])));
            let slerp = method("slerp", json!({"t": t}));
            let stock = method("model-stock", json!({}));
            for (pipeline, count) in [(&slerp, 2), (&stock, 3)] {
                let merge = |updates: &[Update]| merged(pipeline, &updates[..count], &[1.0; 3], &[]).unwrap();
                close(&whole(&merge(&factored), &[]).data, &whole(&merge(&numbers), &[]).data, 1e-4);
            }
        }

        #[test]
        fn model_stock_is_nearest_to_the_base_on_the_plane_of_the_tasks(seed: u64, count in 2u64..5) {
            // With equal lengths and angles the paper's t minimises the distance of t mean(dW_i) + noise: here
            // the formula itself, from whole matrices.
            let updates: Vec<Update> = (0..count).map(|at| dense(4, 6, seed ^ at)).collect();
            let tasks: Vec<Dense> = updates.iter().map(|update| whole(update, &[])).collect();
            let mut cosines = Vec::new();
            for (i, a) in tasks.iter().enumerate() {
                cosines.extend(tasks[..i].iter().map(|b| dot(a, b) / (a.norm() * b.norm())));
            }
            let (n, cosine) = (count as f64, (cosines.iter().sum::<f64>() / cosines.len() as f64).max(0.0));
            let t = n * cosine / (1.0 + (n - 1.0) * cosine);
            let sum = Update::combination(updates.iter().map(|update| (t / n, update))).unwrap();
            let weights = vec![2.0; count as usize];
            let found = merged(&method("model-stock", json!({})), &updates, &weights, &[]).unwrap();
            close(&whole(&found, &[]).data, &whole(&sum, &[]).data, 1e-5);
        }
    }

    #[test]
    fn parallel_opposite_and_zero_updates_are_on_a_line() {
        let update = low_rank(4, 5, 2, 3);
        let slerp = method("slerp", json!({"t": 0.25}));
        for c in [1.0, 2.0, -1.0, 0.0] {
            let pair = [update.clone(), update.scaled(c)];
            let found = whole(&merged(&slerp, &pair, &[1.0, 1.0], &[]).unwrap(), &[]);
            close(
                &found.data,
                &whole(&update.scaled(0.75 + 0.25 * c), &[]).data,
                1e-5,
            );
        }
        let both = merged(&slerp, &[update.clone(), update], &[1.0, 2.0], &[]);
        assert!(
            both.unwrap_err()
                .to_string()
                .contains("expected one or the other")
        );
    }
}
