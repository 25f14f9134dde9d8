//! Averages of adapters: of checkpoints, over time, and of clients with data of different sizes.
//!
//! ```text
//! average     sum_i w_i dW_i / sum_i w_i
//! FedAvg      w_i = n_i, the size of the data of client i (McMahan et al. 2017, algorithm 1)
//! EMA         M_1 = dW_1,  M_t = beta M_{t-1} + (1 - beta) dW_t
//! ```
//!
//! All are exact in the updates, whatever their ranks: factors are stacked, not averaged one by one
//! (arXiv:2409.05976, FLoRA, section 3, for the noise of the latter).

use crate::error::{Error, Result};
use crate::factorise::{Rank, factorise, relative};
use crate::update::Update;

/// sum_i w_i dW_i / sum_i w_i; without weights the mean.
///
/// # Errors
/// No updates, updates of different shapes, another number of weights, weights that are not finite or
/// whose sum is zero.
pub fn average(updates: &[&Update], weights: Option<&[f64]>) -> Result<Update> {
    let equal = vec![1.0; updates.len()];
    let weights = weights.unwrap_or(&equal);
    if weights.len() != updates.len() {
        return Err(Error::input(format!(
            "{} weights for {} updates: give one for each",
            weights.len(),
            updates.len()
        )));
    }
    let total: f64 = weights.iter().sum();
    if !updates.is_empty() && (!total.is_finite() || total == 0.0) {
        return Err(Error::input(format!(
            "weights {weights:?} add up to {total}: an average needs another sum than zero"
        )));
    }
    let terms = weights.iter().zip(updates);
    Update::combination(terms.map(|(weight, update)| (weight / total, *update)))
}

/// The average with the number of examples that each client has trained on.
///
/// # Errors
/// As [`average`].
pub fn fedavg(clients: &[(usize, &Update)]) -> Result<Update> {
    let updates: Vec<&Update> = clients.iter().map(|(_, update)| *update).collect();
    let sizes: Vec<f64> = clients.iter().map(|(size, _)| *size as f64).collect();
    average(&updates, Some(&sizes))
}

/// The weights of [`average`] that make it the EMA of a sequence of `steps` adapters:
/// (1 - beta) beta^(T - t), and beta^(T - 1) for the first. They add up to 1.
#[must_use]
pub fn ema_weights(steps: usize, decay: f64) -> Vec<f64> {
    let weight = |step: usize| {
        let age = decay.powi((steps - 1 - step) as i32);
        match step {
            0 => age,
            _ => (1.0 - decay) * age,
        }
    };
    (0..steps).map(weight).collect()
}

/// The EMA of one module as its adapters come, in bounded memory: factors are recompressed to a rank
/// or an energy after every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Ema {
    decay: f64,
    rank: Option<Rank>,
    mean: Option<Update>,
    lost: f64,
    steps: usize,
}

impl Ema {
    /// An EMA with a decay beta, that keeps all directions, or so many.
    ///
    /// # Errors
    /// A decay outside 0 to 1.
    pub fn new(decay: f64, rank: Option<Rank>) -> Result<Self> {
        match (0.0..=1.0).contains(&decay) {
            true => Ok(Self {
                decay,
                rank,
                mean: None,
                lost: 0.0,
                steps: 0,
            }),
            false => Err(Error::input(format!(
                "decay {decay} of a moving average: choose one from 0 to 1"
            ))),
        }
    }

    /// Takes the next adapter in.
    ///
    /// # Errors
    /// An update of another shape, a rank that it cannot have, NaN or infinite numbers.
    pub fn push(&mut self, update: &Update) -> Result<()> {
        let mut next = match &self.mean {
            None => update.clone(),
            Some(mean) => Update::combination([(self.decay, mean), (1.0 - self.decay, update)])?,
        };
        let mut lost = self.decay * self.lost;
        if let (Some(rank), true, Some(_)) = (self.rank, next.is_low_rank(), &next.low_rank) {
            let (rows, columns) = next.known_shape()?;
            let rank = match rank {
                Rank::Fixed(rank) => Rank::Fixed(rank.min(rows).min(columns)),
                energy => energy,
            };
            let lora = factorise(&next, rank, None)?;
            lost += lora.error * lora.norm;
            next.low_rank = lora.into_update()?.low_rank;
        }
        (self.mean, self.lost) = (Some(next), lost);
        self.steps += 1;
        Ok(())
    }

    /// M_t; nothing before the first step.
    #[must_use]
    pub fn mean(&self) -> Option<&Update> {
        self.mean.as_ref()
    }

    /// How many adapters it has seen.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// A bound on |M_t - exact M_t| / |M_t|: what the recompressions left out, as old as they are.
    ///
    /// # Errors
    /// None for the factors that a step leaves.
    pub fn error(&self) -> Result<f64> {
        let factors = self.mean.as_ref().and_then(|mean| mean.low_rank.as_ref());
        match factors {
            Some(factors) => Ok(relative(self.lost, factors.dot(factors)?.max(0.0).sqrt())),
            None => Ok(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::Matrix;
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense_of, distance, low_rank, refs};

    fn weighted(weights: &[f64], updates: &[Update]) -> Matrix {
        let total: f64 = weights.iter().sum();
        let zero = dense_of(&updates[0]).scale(0.0);
        weights.iter().zip(updates).fold(zero, |sum, (w, update)| {
            sum.add(&dense_of(update).scale(w / total)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn clients_of_different_ranks(m in 1usize..9, n in 1usize..9, sizes in prop::collection::vec(1usize..1000, 1..5), seed: u64) {
            let updates: Vec<Update> = (0..sizes.len()).map(|i| low_rank(m, n, 1 + i, seed ^ i as u64)).collect();
            let clients: Vec<_> = sizes.iter().copied().zip(&updates).collect();
            let merged = dense_of(&fedavg(&clients).unwrap());
            let weights: Vec<f64> = sizes.iter().map(|s| *s as f64).collect();
            prop_assert!(distance(&merged, &weighted(&weights, &updates)) < 1e-12);
            let plain = dense_of(&average(&refs(&updates), None).unwrap());
            prop_assert!(distance(&plain, &weighted(&vec![1.0; sizes.len()], &updates)) < 1e-12);
        }

        #[test]
        fn moving_average(m in 2usize..7, n in 2usize..7, steps in 1usize..7, decay in 0.0..=1.0f64, seed: u64) {
            let updates: Vec<Update> = (0..steps).map(|i| low_rank(m, n, 2, seed ^ i as u64)).collect();
            let weights = ema_weights(steps, decay);
            prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let exact = weighted(&weights, &updates);
            for rank in [None, Some(Rank::Fixed(9)), Some(Rank::Fixed(2)), Some(Rank::Energy(0.9))] {
                let mut ema = Ema::new(decay, rank).unwrap();
                updates.iter().for_each(|update| ema.push(update).unwrap());
                prop_assert_eq!(ema.steps(), steps);
                let mean = dense_of(ema.mean().unwrap());
                let error = mean.sub(&exact).unwrap().frobenius_norm();
                let bound = ema.error().unwrap() * mean.frobenius_norm();
                prop_assert!(error <= bound + 1e-10 * (1.0 + exact.frobenius_norm()), "{error} {bound}");
                if let Some(Rank::Fixed(rank)) = rank {
                    prop_assert!(ema.mean().unwrap().low_rank.as_ref().unwrap().rank() <= rank);
                }
            }
        }

        #[test]
        fn of_a_constant(decay in 0.0..=1.0f64, seed: u64) {
            let update = low_rank(5, 6, 2, seed);
            let mut ema = Ema::new(decay, Some(Rank::Fixed(2))).unwrap();
            (0..5).for_each(|_| ema.push(&update).unwrap());
            prop_assert!(distance(&dense_of(ema.mean().unwrap()), &dense_of(&update)) < 1e-12);
            prop_assert!(ema.error().unwrap() < 1e-12);
        }
    }

    #[test]
    fn weights_that_make_no_average() {
        let update = low_rank(2, 3, 1, 1);
        assert!(average(&[], None).is_err());
        assert!(average(&[&update], Some(&[1.0, 2.0])).is_err());
        assert!(average(&[&update, &update], Some(&[1.0, -1.0])).is_err());
        assert!(average(&[&update], Some(&[f64::NAN])).is_err());
        assert!(Ema::new(1.5, None).is_err());
        assert!(Ema::new(0.9, None).unwrap().mean().is_none());
        let mut ema = Ema::new(0.5, None).unwrap();
        ema.push(&update).unwrap();
        assert!(ema.push(&low_rank(3, 3, 1, 1)).is_err());
        let both = average(&[&update, &update.scaled(-1.0)], None).unwrap();
        assert!(dense_of(&both).max_abs() < 1e-15);
    }
}
