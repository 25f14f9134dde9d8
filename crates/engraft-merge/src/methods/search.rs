//! Coefficients of a merge by search without gradients, as in LoraHub (Huang et al. 2023,
//! arXiv:2307.13269, section 3.3).
//!
//! ```text
//! minimise over w in [-bound, bound]^n:   loss(sum_i w_i dW_i) + alpha mean_i |w_i|
//! ```
//!
//! from w = 0, with bound 1.5 and alpha 0.05 as in the authors' code, which leaves the search to
//! Nevergrad; here it is by CMA-ES (Hansen 2016, arXiv:1604.00772, with its default constants) over x
//! with w = bound sin(x / bound): nothing is out of bounds, and a minimum on them is as smooth as
//! one within.

use engraft_linalg::{Matrix, svd};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Search {
    /// Evaluations of the objective at most.
    pub budget: usize,
    /// Largest magnitude of a coefficient.
    pub bound: f64,
    /// alpha: weight of the mean magnitude of the coefficients.
    pub penalty: f64,
    /// Standard deviation of the first candidates.
    pub step: f64,
    /// Seed of the candidates.
    pub seed: u64,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            budget: 40,
            bound: 1.5,
            penalty: 0.05,
            step: 0.5,
            seed: 42,
        }
    }
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// w.
    pub coefficients: Vec<f64>,
    /// The loss.
    pub loss: f64,
    /// The loss and the penalty, which is minimised.
    pub value: f64,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The evaluation of the least value.
    pub best: Evaluation,
    /// All evaluations in their order; the first is w = 0.
    pub history: Vec<Evaluation>,
}

impl Search {
    /// The best coefficients of `count` adapters that the budget finds. A loss that is NaN counts
    /// as infinite.
    ///
    /// # Errors
    /// No adapters, options that make no sense, the first error of `loss`, no finite loss at all.
    pub fn minimise(&self, count: usize, loss: impl FnMut(&[f64]) -> Result<f64>) -> Result<Found> {
        let sensible = self.bound > 0.0
            && self.bound.is_finite()
            && self.step > 0.0
            && self.step.is_finite()
            && self.penalty >= 0.0;
        if count == 0 || self.budget == 0 || !sensible {
            return Err(Error::input(format!(
                "a search over {count} adapters with {self:?}: there must be adapters and a budget, bound and step above zero, a penalty from zero"
            )));
        }
        let mut run = Run {
            search: *self,
            loss,
            history: Vec::with_capacity(self.budget),
        };
        run.evaluate(&vec![0.0; count])?;
        let mut strategy = Strategy::new(count, self.step);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        while run.history.len() < self.budget && !strategy.converged() {
            let mut generation = Vec::with_capacity(strategy.population);
            let remaining = self.budget - run.history.len();
            for _ in 0..strategy.population.min(remaining) {
                let candidate = strategy.sample(&mut rng)?;
                let value = run.evaluate(&candidate)?;
                generation.push((value, candidate));
            }
            if generation.len() < strategy.population {
                break;
            }
            generation.sort_by(|a, b| a.0.total_cmp(&b.0));
            strategy.learn(&generation)?;
        }
        let best = run
            .history
            .iter()
            .min_by(|a, b| a.value.total_cmp(&b.value));
        match best.filter(|best| best.value.is_finite()) {
            Some(best) => Ok(Found {
                best: best.clone(),
                history: run.history,
            }),
            None => Err(Error::input(format!(
                "none of {} coefficients gave a finite loss",
                run.history.len()
            ))),
        }
    }
}

struct Run<F> {
    search: Search,
    loss: F,
    history: Vec<Evaluation>,
}

impl<F: FnMut(&[f64]) -> Result<f64>> Run<F> {
    /// The value of a candidate x.
    fn evaluate(&mut self, candidate: &[f64]) -> Result<f64> {
        let bound = self.search.bound;
        let coefficients: Vec<f64> = candidate
            .iter()
            .map(|x| bound * (x / bound).sin())
            .collect();
        let loss = match (self.loss)(&coefficients)? {
            loss if loss.is_nan() => f64::INFINITY,
            loss => loss,
        };
        let mass: f64 = coefficients.iter().map(|x| x.abs()).sum();
        let value = loss + self.search.penalty * mass / coefficients.len() as f64;
        self.history.push(Evaluation {
            coefficients,
            loss,
            value,
        });
        Ok(value)
    }
}

/// CMA-ES: a normal distribution that moves to where the values are low.
struct Strategy {
    population: usize,
    weights: Vec<f64>,
    /// Effective number of parents.
    mu: f64,
    mean: Vec<f64>,
    sigma: f64,
    covariance: Matrix,
    /// B and D of C = B D^2 B^T.
    axes: Matrix,
    lengths: Vec<f64>,
    path_sigma: Vec<f64>,
    path: Vec<f64>,
    generation: i32,
}

impl Strategy {
    fn new(n: usize, sigma: f64) -> Self {
        let population = 4 + (3.0 * (n as f64).ln()) as usize;
        let parents = population / 2;
        let raw = |rank: usize| (population as f64 / 2.0 + 0.5).ln() - (rank as f64).ln();
        let total: f64 = (1..=parents).map(raw).sum();
        let weights: Vec<f64> = (1..=parents).map(|rank| raw(rank) / total).collect();
        Self {
            population,
            mu: 1.0 / weights.iter().map(|w| w * w).sum::<f64>(),
            weights,
            mean: vec![0.0; n],
            sigma,
            covariance: Matrix::identity(n),
            axes: Matrix::identity(n),
            lengths: vec![1.0; n],
            path_sigma: vec![0.0; n],
            path: vec![0.0; n],
            generation: 0,
        }
    }

    /// m + sigma B D z.
    fn sample(&self, rng: &mut ChaCha8Rng) -> Result<Vec<f64>> {
        let draw = |length: &f64| {
            let z: f64 = StandardNormal.sample(rng);
            length * z
        };
        let scaled = self.lengths.iter().map(draw).collect();
        let offset = times(&self.axes, scaled)?;
        let moved = self
            .mean
            .iter()
            .zip(offset)
            .map(|(m, y)| m + self.sigma * y);
        Ok(moved.collect())
    }

    /// Moves to a generation sorted by its values.
    fn learn(&mut self, generation: &[(f64, Vec<f64>)]) -> Result<()> {
        let n = self.mean.len() as f64;
        let mu = self.mu;
        let c_sigma = (mu + 2.0) / (n + mu + 5.0);
        let damping = 1.0 + 2.0 * (((mu - 1.0) / (n + 1.0)).sqrt() - 1.0).max(0.0) + c_sigma;
        let c_c = (4.0 + mu / n) / (n + 4.0 + 2.0 * mu / n);
        let c_1 = 2.0 / ((n + 1.3).powi(2) + mu);
        let c_mu = (2.0 * (mu - 2.0 + 1.0 / mu) / ((n + 2.0).powi(2) + mu)).min(1.0 - c_1);
        let expected = n.sqrt() * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n));

        let parents = &generation[..self.weights.len()];
        let steps = parents.iter().map(|(_, x)| {
            let both = x.iter().zip(&self.mean);
            both.map(|(x, m)| (x - m) / self.sigma).collect()
        });
        let steps: Vec<Vec<f64>> = steps.collect();
        let mut step = vec![0.0; self.mean.len()];
        for (weight, own) in self.weights.iter().zip(&steps) {
            step.iter_mut().zip(own).for_each(|(s, y)| *s += weight * y);
        }
        let moved = self.mean.iter_mut().zip(&step);
        moved.for_each(|(m, y)| *m += self.sigma * y);

        self.generation += 1;
        // C^(-1/2) y = B D^-1 B^T y.
        let along = times(&self.axes.transpose(), step.clone())?;
        let along = along.iter().zip(&self.lengths).map(|(x, d)| x / d);
        let whitened = times(&self.axes, along.collect())?;
        let keep = (c_sigma * (2.0 - c_sigma) * mu).sqrt();
        decayed(&mut self.path_sigma, c_sigma, keep, &whitened);
        let length = self
            .path_sigma
            .iter()
            .fold(0.0, |sum: f64, x| sum.hypot(*x));
        let normal = (1.0 - (1.0 - c_sigma).powi(2 * self.generation)).sqrt();
        let moving = length / normal < (1.4 + 2.0 / (n + 1.0)) * expected;
        let keep = match moving {
            true => (c_c * (2.0 - c_c) * mu).sqrt(),
            false => 0.0,
        };
        decayed(&mut self.path, c_c, keep, &step);

        let stalled = match moving {
            true => 0.0,
            false => c_c * (2.0 - c_c),
        };
        let remain = 1.0 - c_1 - c_mu + c_1 * stalled;
        let (old, path, weights) = (&self.covariance, &self.path, &self.weights);
        let covariance = Matrix::from_fn(path.len(), path.len(), |i, j| {
            let both = weights.iter().zip(&steps);
            let spread: f64 = both.map(|(w, y)| w * y[i] * y[j]).sum();
            remain * old.get(i, j) + c_1 * path[i] * path[j] + c_mu * spread
        });
        self.covariance = covariance;
        self.sigma *= ((c_sigma / damping) * (length / expected - 1.0))
            .min(1.0)
            .exp();
        // Symmetric and positive: the singular vectors are the axes.
        let all = svd(&self.covariance)?;
        self.axes = all.u;
        let least = 1e-20 * all.s[0].max(f64::MIN_POSITIVE);
        self.lengths = all.s.iter().map(|s| s.max(least).sqrt()).collect();
        Ok(())
    }

    fn converged(&self) -> bool {
        let longest = self.lengths.iter().copied().fold(0.0, f64::max);
        let step = self.sigma * longest;
        step.is_nan() || step <= 1e-12
    }
}

/// p = (1 - c) p + k y.
fn decayed(path: &mut [f64], c: f64, k: f64, step: &[f64]) {
    let both = path.iter_mut().zip(step);
    both.for_each(|(p, y)| *p = (1.0 - c) * *p + k * y);
}

fn times(matrix: &Matrix, vector: Vec<f64>) -> Result<Vec<f64>> {
    let column = Matrix::from_vec(vector.len(), 1, vector)?;
    Ok(matrix.matmul(&column)?.into_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn free(budget: usize, seed: u64) -> Search {
        Search {
            budget,
            penalty: 0.0,
            seed,
            ..Search::default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn convex_quadratic(center in prop::collection::vec(-1.4..1.4f64, 1..6), seed: u64) {
            // Axes of lengths 1 to 100.
            let bowl = |w: &[f64]| {
                let terms = w.iter().zip(&center).enumerate();
                Ok(terms.map(|(i, (x, c))| 10f64.powi((i % 3) as i32) * (x - c).powi(2)).sum())
            };
            let found = free(2000, seed).minimise(center.len(), bowl).unwrap();
            prop_assert!(found.best.loss < 1e-10, "{:?}", found.best);
            let again = free(2000, seed).minimise(center.len(), bowl).unwrap();
            prop_assert_eq!(found, again);
        }

        #[test]
        fn a_minimum_beyond_the_bounds(seed: u64) {
            let found = free(1000, seed).minimise(3, |w| {
                Ok((w[0] - 3.0).powi(2) + (w[1] + 2.0).powi(2) + w[2].powi(2))
            }).unwrap();
            let expected = [1.5, -1.5, 0.0];
            let near = found.best.coefficients.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-3);
            prop_assert!(near, "{:?}", found.best);
            prop_assert!(found.history.iter().all(|e| e.coefficients.iter().all(|x| x.abs() <= 1.5)));
        }
    }

    #[test]
    fn rosenbrock() {
        for seed in 0..5 {
            let found = free(4000, seed).minimise(4, |w| {
                let pairs = w.windows(2);
                Ok(pairs
                    .map(|p| 100.0 * (p[1] - p[0] * p[0]).powi(2) + (1.0 - p[0]).powi(2))
                    .sum())
            });
            let best = found.unwrap().best;
            // The function has another local minimum near (-1, 1, 1, 1), of value 3.7.
            assert!(best.loss < 1e-8, "{seed}: {best:?}");
        }
    }

    #[test]
    fn budget_start_and_penalty() {
        let search = Search::default();
        let found = search.minimise(3, |_| Ok(1.0)).unwrap();
        assert_eq!(found.history.len(), search.budget);
        assert_eq!(found.history[0].coefficients, [0.0; 3]);
        // A flat loss leaves the penalty, which is least at zero.
        assert_eq!(found.best, found.history[0]);
        let second = &found.history[1];
        let mass: f64 = second.coefficients.iter().map(|x| x.abs()).sum();
        assert!((second.value - 1.0 - 0.05 * mass / 3.0).abs() < 1e-15);
    }

    #[test]
    fn what_goes_wrong() {
        let search = Search::default();
        assert!(search.minimise(0, |_| Ok(1.0)).is_err());
        assert!(
            Search {
                budget: 0,
                ..search
            }
            .minimise(1, |_| Ok(1.0))
            .is_err()
        );
        assert!(
            Search {
                bound: 0.0,
                ..search
            }
            .minimise(1, |_| Ok(1.0))
            .is_err()
        );
        let error = search.minimise(1, |_| Err(Error::input("no model")));
        assert_eq!(error.unwrap_err().to_string(), "no model");
        assert!(search.minimise(1, |_| Ok(f64::NAN)).is_err());
        let found = search.minimise(1, |w| Ok(if w[0] > 0.1 { w[0] } else { f64::NAN }));
        assert!(found.unwrap().best.coefficients[0] > 0.1);
    }
}
