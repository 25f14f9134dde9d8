//! What masks have in common, over several modules.

use serde::{Deserialize, Serialize};

use super::masks::{Mask, TaskMasks};

/// What masks have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaskStatistics {
    /// Fraction of the entries that each keeps.
    pub densities: Vec<f64>,
    /// Intersection over union of each two.
    pub jaccard: Vec<Vec<f64>>,
    /// How many entries 0, 1, ..., T masks keep.
    pub shared: Vec<usize>,
}

/// Entries of masks, counted module by module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskCounts {
    entries: usize,
    /// Entries that each two keep, and each one on the diagonal.
    both: Vec<Vec<usize>>,
    shared: Vec<usize>,
}

impl MaskCounts {
    /// No entries of the masks of so many tasks.
    #[must_use]
    pub fn new(tasks: usize) -> Self {
        Self {
            entries: 0,
            both: vec![vec![0; tasks]; tasks],
            shared: vec![0; tasks + 1],
        }
    }

    /// Counts those of a module, of as many tasks.
    pub fn add(&mut self, masks: &TaskMasks) {
        self.entries += masks.masks.first().map_or(0, Mask::len);
        for (a, row) in masks.masks.iter().zip(&mut self.both) {
            for (b, both) in masks.masks.iter().zip(row) {
                *both += a.overlap(b).both;
            }
        }
        masks.counts().for_each(|count| self.shared[count] += 1);
    }

    /// Densities and overlaps.
    #[must_use]
    pub fn statistics(&self) -> MaskStatistics {
        let kept = |at: usize| self.both[at][at];
        let tasks = self.both.len();
        let jaccard = |a: usize, b: usize| match kept(a) + kept(b) - self.both[a][b] {
            0 => 1.0,
            union => self.both[a][b] as f64 / union as f64,
        };
        let row = |a: usize| (0..tasks).map(|b| jaccard(a, b)).collect();
        let density = |at: usize| kept(at) as f64 / self.entries.max(1) as f64;
        MaskStatistics {
            densities: (0..tasks).map(density).collect(),
            jaccard: (0..tasks).map(row).collect(),
            shared: self.shared.clone(),
        }
    }
}
