//! What a reproduction says about a published number.

use std::fmt;

use crate::stats::Interval;

/// The outcome of a comparison with a paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The published number lies in the interval.
    Reproduced,
    /// It does not, but the method stands on the same side of full fine-tuning.
    DirectionHolds,
    /// Neither.
    NotReproduced,
    /// The row was not run.
    NeedsLargerMachine,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reproduced => "reproduced",
            Self::DirectionHolds => "direction holds",
            Self::NotReproduced => "not reproduced",
            Self::NeedsLargerMachine => "needs a larger machine",
        })
    }
}

impl Verdict {
    /// Compares a measured interval with the published number; `reference` is the measured and
    /// the published accuracy of full fine-tuning. All in the same unit.
    #[must_use]
    pub fn of(measured: Interval, published: f64, reference: Option<(f64, f64)>) -> Self {
        if measured.contains(published) {
            return Self::Reproduced;
        }
        match reference {
            Some((full, published_full))
                if (measured.mean - full) * (published - published_full) > 0.0 =>
            {
                Self::DirectionHolds
            }
            _ => Self::NotReproduced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_interval_and_direction() {
        let measured = Interval {
            mean: 0.9,
            half_width: Some(0.02),
        };
        assert_eq!(Verdict::of(measured, 0.915, None), Verdict::Reproduced);
        assert_eq!(
            Verdict::of(measured, 0.95, Some((0.88, 0.93))),
            Verdict::DirectionHolds
        );
        assert_eq!(
            Verdict::of(measured, 0.95, Some((0.92, 0.93))),
            Verdict::NotReproduced
        );
        assert_eq!(Verdict::of(measured, 0.95, None), Verdict::NotReproduced);
    }
}
