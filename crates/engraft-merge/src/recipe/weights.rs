//! The weights of adapters, from what they are to each other.

use serde::{Deserialize, Serialize};

use super::Recipe;
use crate::error::{Error, Result};
use crate::methods::ema_weights;

/// What the weights of the adapters are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// Those that the adapters say.
    #[default]
    Given,
    /// Those of a moving average with this decay, the adapters in the order of training:
    /// (1 - beta) beta^(T - t), and beta^(T - 1) for the first.
    Ema(f64),
    /// Shares of the examples that each adapter was trained on (FedAvg): n_i / sum n. The sum of the updates
    /// is exact whatever their ranks.
    Samples(Vec<f64>),
}

impl Recipe {
    /// The weights of the adapters, in their order.
    ///
    /// # Errors
    /// A decay outside 0 to 1; not as many samples as adapters, negative ones, none at all; weights of the
    /// adapters' own beside them.
    pub fn weights(&self) -> Result<Vec<f64>> {
        let given = self.adapters.iter().map(|adapter| adapter.weight);
        let given: Vec<f64> = given.collect();
        if self.weights == Weights::Given {
            return Ok(given);
        }
        if let Some(at) = given.iter().position(|weight| *weight != 1.0) {
            let reason = format!(
                "its weight is {}, and `weights` sets the weights of all: leave one of them out",
                given[at]
            );
            return Err(Error::adapter(&self.adapters[at].name(), reason));
        }
        match &self.weights {
            Weights::Given => Ok(given),
            Weights::Ema(decay) if !(0.0..=1.0).contains(decay) => Err(Error::input(format!(
                "weights: the decay of a moving average is {decay}, expected one from 0 to 1"
            ))),
            Weights::Ema(decay) => Ok(ema_weights(given.len(), *decay)),
            Weights::Samples(samples) if samples.len() != given.len() => {
                Err(Error::input(format!(
                    "weights: {} numbers of samples for {} adapters: give one for each",
                    samples.len(),
                    given.len()
                )))
            }
            Weights::Samples(samples) => {
                let total: f64 = samples.iter().sum();
                let sensible = samples.iter().all(|n| *n >= 0.0) && total > 0.0;
                if !sensible || !total.is_finite() {
                    return Err(Error::input(format!(
                        "weights: samples {samples:?}, expected numbers from 0 that are not all 0"
                    )));
                }
                Ok(samples.iter().map(|n| n / total).collect())
            }
        }
    }
}
