//! The few values that quantised numbers take.

/// Values in ascending order, and what lies between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    /// The values, ascending.
    pub values: Vec<f64>,
    /// The midpoints of neighbours: a number beyond k of them takes value k.
    pub thresholds: Vec<f64>,
}

impl Levels {
    /// These values, in any order; equal ones are one.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        values.dedup();
        let thresholds = values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        Self {
            thresholds: thresholds.collect(),
            values,
        }
    }

    /// Which value is nearest to a number.
    pub fn code(&self, z: f64) -> u8 {
        self.thresholds.partition_point(|&threshold| z > threshold) as u8
    }
}
