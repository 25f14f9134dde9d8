//! Learning-rate schedules, as `transformers` defines them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// 1.
    #[default]
    Constant,
    /// From 1 to 0 along a line.
    Linear,
    /// From 1 to 0 along half a cosine.
    Cosine,
}

/// The factor of the learning rate at each step: t / warmup before `warmup`, then the decay over
/// what is left of `steps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub decay: Decay,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
}

impl Schedule {
    /// The factor of the update that follows `step` earlier ones: with a warm-up, the first is 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let after = (step - self.warmup) as f64;
        let progress = after / self.steps.saturating_sub(self.warmup).max(1) as f64;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => (1.0 - progress).max(0.0),
            // Past the end `transformers` rises again; a schedule that ended stays at 0.
            Decay::Cosine => 0.5 * (1.0 + (PI * progress.min(1.0)).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_transformers() {
        let schedule = |decay| Schedule {
            decay,
            warmup: 4,
            steps: 12,
        };
        let factors = |decay, steps: [u64; 6]| steps.map(|step| schedule(decay).factor(step));
        let steps = [0, 1, 4, 6, 12, 20];
        assert_eq!(
            factors(Decay::Constant, steps),
            [0.0, 0.25, 1.0, 1.0, 1.0, 1.0]
        );
        assert_eq!(
            factors(Decay::Linear, steps),
            [0.0, 0.25, 1.0, 0.75, 0.0, 0.0]
        );
        let cosine = factors(Decay::Cosine, steps);
        let expected = [0.0, 0.25, 1.0, 0.5 * (1.0 + 0.5f64.sqrt()), 0.0, 0.0];
        assert!(
            cosine
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-15),
            "{cosine:?}"
        );
    }

    #[test]
    fn a_warm_up_longer_than_the_run_does_not_divide_by_zero() {
        let schedule = Schedule {
            decay: Decay::Linear,
            warmup: 10,
            steps: 5,
        };
        assert_eq!((schedule.factor(5), schedule.factor(10)), (0.5, 1.0));
    }
}
