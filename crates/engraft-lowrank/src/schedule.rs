//! When ranks change, and by how much: pure functions of the step.

use serde::{Deserialize, Serialize};

/// When a budget of ranks shrinks from its first to its last value.
///
/// Steps are counted from 1: the first update is step 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BudgetSchedule {
    /// Steps before anything is removed.
    pub warmup: u64,
    /// Steps at the end in which what was kept is trained on.
    pub settle: u64,
    /// Steps between two removals.
    pub interval: u64,
    /// Steps in all; those of the run if absent.
    pub steps: Option<u64>,
}

impl Default for BudgetSchedule {
    fn default() -> Self {
        Self {
            warmup: 0,
            settle: 0,
            interval: 1,
            steps: None,
        }
    }
}

/// What happens to the ranks after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Nothing.
    Keep,
    /// This many stay, chosen anew; what was removed may come back.
    Choose(usize),
    /// This many stay, for good.
    Settle(usize),
    /// Those that were settled on stay.
    Hold,
}

impl BudgetSchedule {
    /// Whether the phases fit into `total` steps: the reason if not.
    ///
    /// # Errors
    /// The sentence for [`engraft_core::Method::validate`].
    pub fn check(&self, total: u64) -> Result<(), String> {
        let Self {
            warmup,
            settle,
            interval,
            ..
        } = *self;
        if interval == 0 {
            return Err("interval 0: expected at least 1".to_owned());
        }
        if warmup.saturating_add(settle) >= total {
            return Err(format!(
                "warmup {warmup} and settle {settle} leave no step of {total} for the budget: expected less than {total} together"
            ));
        }
        Ok(())
    }

    /// Whether importance is measured after this step.
    pub fn measures(&self, step: u64, total: u64) -> bool {
        step + self.settle < total
    }

    /// The budget after this step: `initial`, then b_T + (b_0 - b_T) (1 - t)^3 as the time t
    /// between warmup and settling goes from 0 to 1, then `last` (AdaLoRA, equation 12).
    pub fn budget(&self, step: u64, total: u64, initial: usize, last: usize) -> usize {
        let end = total.saturating_sub(self.settle);
        if step <= self.warmup {
            return initial;
        }
        if step >= end {
            return last;
        }
        let left = 1.0 - (step - self.warmup) as f64 / (end - self.warmup) as f64;
        ((initial as f64 - last as f64) * left.powi(3) + last as f64) as usize
    }

    /// What happens after this step.
    pub fn allocation(&self, step: u64, total: u64, initial: usize, last: usize) -> Allocation {
        let end = total.saturating_sub(self.settle);
        let budget = self.budget(step, total, initial, last);
        if step > end {
            Allocation::Hold
        } else if step == end {
            Allocation::Settle(budget)
        } else if step > self.warmup && step.is_multiple_of(self.interval.max(1)) {
            Allocation::Choose(budget)
        } else {
            Allocation::Keep
        }
    }
}

/// When ranks grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GrowthSchedule {
    /// Steps before the first growth.
    pub warmup: u64,
    /// Steps between two growths.
    pub interval: u64,
}

impl Default for GrowthSchedule {
    fn default() -> Self {
        Self {
            warmup: 100,
            interval: 100,
        }
    }
}

impl GrowthSchedule {
    /// Whether ranks grow after this step, counted from 1.
    pub fn grows(&self, step: u64) -> bool {
        step > self.warmup && step.is_multiple_of(self.interval.max(1))
    }

    /// The step of the n-th growth, from 1; 0 for none.
    pub fn step_of(&self, growth: u64) -> u64 {
        let interval = self.interval.max(1);
        match growth {
            0 => 0,
            growth => (self.warmup / interval)
                .saturating_add(growth)
                .saturating_mul(interval),
        }
    }
}

/// How many layers grow at a time (TriAdaptLoRA): the n-th highest score is the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Threshold {
    /// n = t m, for a time t from 0 to 1 and m ranks that are missing.
    #[default]
    Linear,
    /// n = m^t.
    Exponential,
}

impl Threshold {
    /// n, at least 1, at a step after `warmup` of a run of `total` steps.
    pub fn layers(self, step: u64, total: u64, warmup: u64, missing: usize) -> usize {
        let length = total.saturating_sub(warmup).max(1) as f64;
        let time = (step.saturating_sub(warmup) as f64 / length).min(1.0);
        let layers = match self {
            Self::Linear => missing as f64 * time,
            Self::Exponential => (missing as f64).powf(time),
        };
        (layers as usize).max(1)
    }
}

/// Which of these scores are kept when the lowest beyond `budget` go. What ties with the highest
/// that goes, goes too.
pub fn survivors(scores: &[f64], budget: usize) -> Vec<bool> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    match scores.len().saturating_sub(budget) {
        0 => vec![true; scores.len()],
        removed => scores
            .iter()
            .map(|score| *score > sorted[removed - 1])
            .collect(),
    }
}

/// The positions of the `count` highest scores, earlier ones first where they tie.
pub fn highest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_STEPS: BudgetSchedule = BudgetSchedule {
        warmup: 2,
        settle: 3,
        interval: 1,
        steps: None,
    };

    #[test]
    fn the_budget_falls_as_a_cube() {
        // PEFT's allocator on two layers of rank 6, average target 3.
        let budgets: Vec<usize> = (1..=10)
            .map(|step| TEN_STEPS.budget(step, 10, 12, 6))
            .collect();
        assert_eq!(budgets, [12, 12, 9, 7, 6, 6, 6, 6, 6, 6]);
        let long = BudgetSchedule {
            warmup: 100,
            settle: 50,
            ..TEN_STEPS
        };
        assert_eq!(long.budget(100, 1000, 144, 96), 144);
        // Halfway between: (1/2)^3 of what is to go is left.
        assert_eq!(long.budget(525, 1000, 144, 96), 96 + 48 / 8);
        assert_eq!(long.budget(950, 1000, 144, 96), 96);
    }

    #[test]
    fn the_phases_follow_each_other() {
        let every_second = BudgetSchedule {
            interval: 2,
            ..TEN_STEPS
        };
        let phases = (1..=9).map(|step| every_second.allocation(step, 10, 12, 6));
        assert_eq!(
            phases.collect::<Vec<_>>(),
            [
                Allocation::Keep,
                Allocation::Keep,
                Allocation::Keep,
                Allocation::Choose(7),
                Allocation::Keep,
                Allocation::Choose(6),
                Allocation::Settle(6),
                Allocation::Hold,
                Allocation::Hold,
            ]
        );
        assert!(every_second.measures(6, 10) && !every_second.measures(7, 10));
        assert!(every_second.check(5).unwrap_err().contains("no step of 5"));
    }

    #[test]
    fn the_lowest_go_and_the_highest_grow() {
        assert_eq!(
            survivors(&[3.0, 1.0, 2.0, 4.0], 2),
            [true, false, false, true]
        );
        assert_eq!(survivors(&[1.0, 1.0, 2.0], 2), [false, false, true]);
        assert_eq!(survivors(&[1.0, 1.0], 5), [true, true]);
        assert_eq!(highest(&[1.0, 3.0, 2.0, 3.0], 2), [1, 3]);
        assert_eq!(highest(&[0.0; 3], 2), [0, 1]);
    }

    #[test]
    fn thresholds_let_more_layers_grow_as_time_goes_on() {
        let layers =
            |threshold: Threshold| [10, 55, 100].map(|step| threshold.layers(step, 100, 10, 16));
        assert_eq!(layers(Threshold::Linear), [1, 8, 16]);
        assert_eq!(layers(Threshold::Exponential), [1, 4, 16]);
    }

    #[test]
    fn growth_waits_and_then_comes_at_intervals() {
        let schedule = GrowthSchedule {
            warmup: 4,
            interval: 3,
        };
        let grows: Vec<u64> = (1..=12).filter(|step| schedule.grows(*step)).collect();
        assert_eq!(grows, [6, 9, 12]);
        let steps = [0, 1, 2, 3].map(|growth| schedule.step_of(growth));
        assert_eq!(steps, [0, 6, 9, 12]);
    }
}
