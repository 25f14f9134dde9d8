//! When and by what the entries of a sparse update are placed during training.

use serde::{Deserialize, Serialize};

/// What of the weight's gradients decides where the sparse entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accumulation {
    /// The mean of their squares, a diagonal Fisher information.
    #[default]
    MeanSquared,
    /// Their mean.
    Mean,
}

/// When the sparse entries are placed during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WarmUp {
    /// Updates of the low-rank part alone.
    pub steps: u64,
    /// Updates of the low-rank part alone that follow, whose gradients of the weight are gathered.
    pub gradients: u64,
}

/// What training does at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    LowRank,
    Gathering { last: bool },
    Joint,
}

impl WarmUp {
    /// What training does at this step.
    pub(crate) fn phase(self, step: u64) -> Phase {
        let end = self.steps + self.gradients;
        match step {
            step if step < self.steps => Phase::LowRank,
            step if step < end => Phase::Gathering {
                last: step + 1 == end,
            },
            _ => Phase::Joint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_warms_up_gathers_and_then_trains_both() {
        let warm_up = WarmUp {
            steps: 2,
            gradients: 2,
        };
        let phases: Vec<Phase> = (0..5).map(|step| warm_up.phase(step)).collect();
        let gathering = |last| Phase::Gathering { last };
        assert_eq!(
            phases,
            [
                Phase::LowRank,
                Phase::LowRank,
                gathering(false),
                gathering(true),
                Phase::Joint
            ]
        );
    }
}
