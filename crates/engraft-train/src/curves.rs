//! What a run looked like.

use serde::{Deserialize, Serialize};

/// One point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Updates made.
    pub step: u64,
    /// Value there.
    pub value: f64,
}

/// What a run looked like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    /// Mean loss of the steps up to each point.
    pub loss: Vec<Point>,
    /// Evaluations, of which more is better.
    pub evaluation: Vec<Point>,
}

impl Curves {
    /// The first of the best evaluations.
    pub fn best(&self) -> Option<Point> {
        self.evaluation
            .iter()
            .copied()
            .filter(|point| !point.value.is_nan())
            .reduce(|best, point| {
                if point.value > best.value {
                    point
                } else {
                    best
                }
            })
    }
}
