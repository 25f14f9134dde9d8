//! Settings of a training run.

use serde::{Deserialize, Serialize};

use crate::early_stop::EarlyStop;
use crate::error::{Error, Result};
use crate::learning_rates::RatePattern;
use crate::optimizer::OptimizerConfig;
use crate::schedule::Decay;

/// Settings of a [`Trainer`](crate::Trainer).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainConfig {
    /// Steps in all.
    pub steps: u64,
    /// Seed of dropout and sampling.
    pub seed: u64,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// What follows the warm-up.
    pub decay: Decay,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Largest global norm of the gradients; not clipped if absent.
    pub clip: Option<f64>,
    /// Learning rates of some parameters.
    pub rates: Vec<RatePattern>,
    /// Steps whose mean loss makes one point of the curve; the device is read once for each.
    pub loss_every: u64,
    /// Steps between evaluations, the last step always being followed by one; never if 0.
    pub evaluate_every: u64,
    /// When to stop early.
    pub early_stop: Option<EarlyStop>,
    /// Whether the best evaluated parameters are kept rather than the last.
    pub keep_best: bool,
    /// Parts into which the rows of a step are divided, whose gradients are added up: the same update
    /// as in one part, to rounding, with the activations of one part in memory.
    #[serde(skip_serializing_if = "is_one")]
    pub accumulate: usize,
}

/// Runs from before there was the setting keep their hash.
fn is_one(accumulate: &usize) -> bool {
    *accumulate == 1
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 100,
            seed: 0,
            learning_rate: 1e-3,
            optimizer: OptimizerConfig::default(),
            decay: Decay::Constant,
            warmup: 0,
            clip: None,
            rates: Vec::new(),
            loss_every: 10,
            evaluate_every: 0,
            early_stop: None,
            keep_best: false,
            accumulate: 1,
        }
    }
}

impl TrainConfig {
    /// Checks the ranges of the settings that the optimiser does not check.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn validate(&self) -> Result<()> {
        let bad = |what, reason| Err(Error::BadConfig { what, reason });
        if !self.learning_rate.is_finite() || self.learning_rate < 0.0 {
            return bad(
                "learning-rate",
                format!(
                    "found {}, expected a finite number of at least 0",
                    self.learning_rate
                ),
            );
        }
        if self.clip.is_some_and(|max| max.is_nan() || max <= 0.0) {
            return bad(
                "clip",
                format!("found {:?}, expected a positive norm", self.clip),
            );
        }
        if self.loss_every == 0 {
            return bad("loss-every", "found 0, expected at least 1".to_owned());
        }
        if self.accumulate == 0 {
            return bad("accumulate", "found 0, expected at least 1".to_owned());
        }
        if self.evaluate_every == 0 && (self.keep_best || self.early_stop.is_some()) {
            return bad(
                "evaluate-every",
                "found 0 with keep-best or early-stop, expected at least 1".to_owned(),
            );
        }
        Ok(())
    }
}
