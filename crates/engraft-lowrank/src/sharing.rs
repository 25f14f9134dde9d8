//! Which layers share a matrix, and when two of them come to.

use serde::{Deserialize, Serialize};

/// A partition of the layers: the owner of each, numbered by first occurrence. In a configuration,
/// the list of owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<usize>", into = "Vec<usize>")]
pub struct Sharing(Vec<usize>);

impl From<Vec<usize>> for Sharing {
    fn from(owners: Vec<usize>) -> Self {
        Self(engraft_core::grouping::numbered(owners))
    }
}

impl From<Sharing> for Vec<usize> {
    fn from(sharing: Sharing) -> Self {
        sharing.0
    }
}

impl Sharing {
    /// Every layer for itself.
    pub fn separate(layers: usize) -> Self {
        Self((0..layers).collect())
    }

    /// The owner of each layer.
    pub fn owners(&self) -> &[usize] {
        &self.0
    }

    /// Number of owners.
    pub fn count(&self) -> usize {
        self.0.iter().max().map_or(0, |last| last + 1)
    }

    /// Layers of an owner.
    pub fn size(&self, owner: usize) -> usize {
        self.0.iter().filter(|other| **other == owner).count()
    }

    /// The same with the layers of two owners under one.
    pub fn merged(&self, one: usize, other: usize) -> Self {
        let unite = |owner: &usize| if *owner == other { one } else { *owner };
        self.0.iter().map(unite).collect::<Vec<_>>().into()
    }

    /// The two owners whose values are nearest, by ||B_1 - B_2||_F, among those that play the same
    /// part; none where no two do. `values` and `parts` are by owner.
    pub fn most_similar(&self, values: &[Vec<f64>], parts: &[usize]) -> Option<(usize, usize)> {
        let distance = |(one, other): &(usize, usize)| -> f64 {
            let pairs = values[*one].iter().zip(&values[*other]);
            pairs.map(|(a, b)| (a - b).powi(2)).sum()
        };
        let count = self.count();
        (0..count)
            .flat_map(|one| (one + 1..count).map(move |other| (one, other)))
            .filter(|(one, other)| parts[*one] == parts[*other])
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }

    /// The partition and the values after the most similar two have merged: the values of the new
    /// owner are the mean over all its layers. None where no two play the same part.
    pub fn merge_most_similar(
        &self,
        values: &[Vec<f64>],
        parts: &[usize],
    ) -> Option<(Self, Vec<Vec<f64>>)> {
        let (one, other) = self.most_similar(values, parts)?;
        let (m, n) = (self.size(one) as f64, self.size(other) as f64);
        let mean = values[one]
            .iter()
            .zip(&values[other])
            .map(|(a, b)| (m * a + n * b) / (m + n))
            .collect();
        let mut left = values.to_vec();
        left[one] = mean;
        left.remove(other);
        Some((self.merged(one, other), left))
    }
}

/// When owners merge: from `start` on one pair every `interval` steps, until `target` are left.
///
/// ASLoRA (arXiv 2412.10135) merges at fixed intervals while training; its intervals are not known
/// here, so there are no defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MergeSchedule {
    /// First step with a merge.
    pub start: u64,
    /// Steps between merges.
    pub interval: u64,
    /// Owners that are left at the end.
    pub target: usize,
}

impl MergeSchedule {
    /// Number of owners after `step`, of `initial` before training.
    pub fn owners(&self, step: u64, initial: usize) -> usize {
        if step < self.start {
            return initial;
        }
        let merges = (step - self.start) / self.interval.max(1) + 1;
        let left = initial.saturating_sub(usize::try_from(merges).unwrap_or(usize::MAX));
        left.max(self.target.min(initial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_merges_at_every_interval_until_the_target() {
        let schedule = MergeSchedule {
            start: 10,
            interval: 5,
            target: 3,
        };
        let owners: Vec<usize> = [0, 9, 10, 14, 15, 20, 1000]
            .iter()
            .map(|step| schedule.owners(*step, 6))
            .collect();
        assert_eq!(owners, [6, 6, 5, 5, 4, 3, 3]);
        assert_eq!(schedule.owners(1000, 2), 2);
    }

    #[test]
    fn the_most_similar_of_one_part_merge_into_the_mean_of_their_layers() {
        let start = Sharing::separate(4);
        let values = vec![vec![0.0], vec![0.1], vec![1.0], vec![4.0]];
        // 0 and 1 are nearest, but play different parts.
        let parts = [0, 1, 0, 0];
        let (sharing, left) = start.merge_most_similar(&values, &parts).unwrap();
        assert_eq!(sharing.owners(), [0, 1, 0, 2]);
        assert_eq!(left, [vec![0.5], vec![0.1], vec![4.0]]);
        let (sharing, left) = sharing.merge_most_similar(&left, &[0, 1, 0]).unwrap();
        assert_eq!(sharing.owners(), [0, 1, 0, 0]);
        assert!((left[0][0] - 5.0 / 3.0).abs() < 1e-15);
        assert!(sharing.merge_most_similar(&left, &[0, 1]).is_none());
    }

    #[test]
    fn owners_are_numbered_by_first_occurrence() {
        let sharing: Sharing = serde_json::from_str("[7, 2, 7]").unwrap();
        assert_eq!(sharing.owners(), [0, 1, 0]);
        assert_eq!((sharing.count(), sharing.size(0)), (2, 2));
        assert_eq!(serde_json::to_string(&sharing).unwrap(), "[0,1,0]");
    }
}
