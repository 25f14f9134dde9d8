//! Task masks: the merge where it serves a task (TALL-masks, Wang et al. 2024, arXiv:2405.07813,
//! section 4; MergeVLA, arXiv:2511.18810, has the same masks).
//!
//! For the merge tau and the update tau_t of a task, entry by entry,
//!
//! ```text
//! m_t = |tau_t| >= lambda |tau - tau_t|,     the task's model: m_t . tau
//! ```
//!
//! lambda from 0.2 to 0.6 in the paper. The consensus (section 4.3) keeps the entries of tau that at
//! least k masks have: k = 2 drops those of no task ("catastrophic") and of one alone ("selfish").
//! Entries where a task and the merge are both zero count as the task's, as the paper's inequality
//! says; its code has a strict one.

use super::mask_counts::{MaskCounts, MaskStatistics};
use crate::error::{Error, Result};
use crate::strips::{common_shape, for_each_strip};
use crate::update::{Overlap, Sparse, Update};

/// A bit for each entry of a weight, row by row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mask {
    len: usize,
    words: Vec<u64>,
}

impl FromIterator<bool> for Mask {
    fn from_iter<I: IntoIterator<Item = bool>>(bits: I) -> Self {
        let mut mask = Self::default();
        bits.into_iter().for_each(|bit| mask.push(bit));
        mask
    }
}

impl Mask {
    fn push(&mut self, bit: bool) {
        if self.len.is_multiple_of(64) {
            self.words.push(0);
        }
        if let (true, Some(word)) = (bit, self.words.last_mut()) {
            *word |= 1 << (self.len % 64);
        }
        self.len += 1;
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is of no entries at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether an entry is kept; no for those beyond the end.
    #[must_use]
    pub fn get(&self, place: usize) -> bool {
        place < self.len && self.words[place / 64] >> (place % 64) & 1 == 1
    }

    /// The bits, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = bool> {
        (0..self.len).map(|place| self.get(place))
    }

    /// How many entries are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Fraction of the entries that are kept, 0 of none.
    #[must_use]
    pub fn density(&self) -> f64 {
        self.count() as f64 / self.len.max(1) as f64
    }

    /// How the kept entries lie to another's; of signs a mask knows nothing.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Overlap {
        let words = self.words.iter().zip(&other.words);
        Overlap {
            first: self.count(),
            second: other.count(),
            both: words.map(|(a, b)| (a & b).count_ones() as usize).sum(),
            conflicts: 0,
        }
    }

    /// The bits eight to a byte, least significant first, for a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        bytes.take(self.len.div_ceil(8)).collect()
    }

    /// The mask of `len` entries that [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// Another number of bytes, bits beyond the end.
    pub fn from_bytes(len: usize, bytes: &[u8]) -> Result<Self> {
        if bytes.len() != len.div_ceil(8) {
            return Err(Error::input(format!(
                "{} bytes for a mask of {len} entries, expected {}",
                bytes.len(),
                len.div_ceil(8)
            )));
        }
        let words = bytes.chunks(8).map(|part| {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            u64::from_le_bytes(word)
        });
        let words: Vec<u64> = words.collect();
        match words.last().filter(|_| !len.is_multiple_of(64)) {
            Some(last) if last >> (len % 64) != 0 => Err(Error::input(format!(
                "a mask of {len} entries with bits beyond its end"
            ))),
            _ => Ok(Self { len, words }),
        }
    }

    /// The entries of an update that it keeps. `base`: W, for an update that is relative to it.
    ///
    /// # Errors
    /// An update of another size, a missing base.
    pub fn apply(&self, update: &Update, base: Option<&[f32]>) -> Result<Update> {
        let (rows, columns) = update.known_shape()?;
        if rows * columns != self.len {
            return Err(Error::input(format!(
                "a mask of {} entries for a weight of {rows}x{columns}",
                self.len
            )));
        }
        let alone = update.low_rank.is_none() && update.dense.is_none() && !update.needs_base();
        if let Some(sparse) = update.sparse.as_ref().filter(|_| alone) {
            let kept = sparse
                .entries()
                .filter(|(place, _)| self.get(*place as usize));
            let kept = Sparse::new(kept.collect());
            return Ok(Update {
                sparse: Some(kept),
                ..update.clone()
            });
        }
        let mut dense = update.to_dense(base)?;
        for (place, x) in dense.data.iter_mut().enumerate() {
            if !self.get(place) {
                *x = 0.0;
            }
        }
        Ok(Update {
            bias: update.bias.clone(),
            bias_scale: update.bias_scale.clone(),
            ..Update::dense(dense)
        })
    }
}

/// The masks of several tasks for one merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskMasks {
    /// One for each task.
    pub masks: Vec<Mask>,
}

impl TaskMasks {
    /// The masks of tasks for a merge of them, some rows at a time. `base`: W, for updates that are
    /// relative to it.
    ///
    /// # Errors
    /// Updates of different shapes, a lambda that is negative or not finite, a missing base.
    pub fn new(
        merged: &Update,
        tasks: &[&Update],
        lambda: f64,
        base: Option<&[f32]>,
    ) -> Result<Self> {
        if !(lambda >= 0.0 && lambda.is_finite()) {
            return Err(Error::input(format!(
                "lambda {lambda} of task masks: choose a number from 0, such as 0.4"
            )));
        }
        let all: Vec<&Update> = [merged].into_iter().chain(tasks.iter().copied()).collect();
        let mut masks = vec![Mask::default(); tasks.len()];
        for_each_strip(&all, base, |_, strips| {
            for (mask, task) in masks.iter_mut().zip(&strips[1..]) {
                for (tau, own) in strips[0].iter().zip(task) {
                    let (tau, own) = (f64::from(*tau), f64::from(*own));
                    mask.push(own.abs() >= lambda * (tau - own).abs());
                }
            }
            Ok(())
        })?;
        Ok(Self { masks })
    }

    /// m_t . tau.
    ///
    /// # Errors
    /// A task that is not there, and as [`Mask::apply`].
    pub fn reconstruct(
        &self,
        task: usize,
        merged: &Update,
        base: Option<&[f32]>,
    ) -> Result<Update> {
        let Some(mask) = self.masks.get(task) else {
            return Err(Error::input(format!(
                "task {task} of {}: count from 0",
                self.masks.len()
            )));
        };
        mask.apply(merged, base)
    }

    /// The entries that at least `tasks` masks keep.
    #[must_use]
    pub fn consensus(&self, tasks: usize) -> Mask {
        self.counts().map(|count| count >= tasks).collect()
    }

    /// Densities and overlaps.
    #[must_use]
    pub fn statistics(&self) -> MaskStatistics {
        let mut counts = MaskCounts::new(self.masks.len());
        counts.add(self);
        counts.statistics()
    }

    /// How many masks keep each entry.
    pub(super) fn counts(&self) -> impl Iterator<Item = usize> {
        let len = self.masks.first().map_or(0, Mask::len);
        (0..len).map(|place| self.masks.iter().filter(|mask| mask.get(place)).count())
    }
}

/// The merge with all but its consensus entries dropped (Consensus Merging): those that at least
/// `votes` of the tasks need.
///
/// # Errors
/// As [`TaskMasks::new`].
pub fn consensus(
    merged: &Update,
    tasks: &[&Update],
    lambda: f64,
    votes: usize,
    base: Option<&[f32]>,
) -> Result<Update> {
    common_shape(tasks)?;
    let masks = TaskMasks::new(merged, tasks, lambda, base)?;
    masks.consensus(votes).apply(merged, base)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense, low_rank, refs};
    use crate::update::Dense;

    fn numbers(update: &Update) -> Dense {
        update.to_dense(None).unwrap()
    }

    proptest! {
        #[test]
        fn one_task_is_itself(m in 1usize..9, n in 1usize..9, lambda in 0.0..2.0f64, seed: u64) {
            let update = low_rank(m, n, 2, seed);
            let masks = TaskMasks::new(&update, &[&update], lambda, None).unwrap();
            let back = masks.reconstruct(0, &update, None).unwrap();
            prop_assert_eq!(numbers(&back), numbers(&update));
        }

        #[test]
        fn masks_follow_their_definition(m in 1usize..9, n in 1usize..9, lambda in 0.0..2.0f64, seed: u64) {
            let tasks = [dense(m, n, seed), dense(m, n, seed ^ 1), dense(m, n, seed ^ 2)];
            let merged = Update::combination(tasks.iter().map(|task| (1.0, task))).unwrap();
            let found = TaskMasks::new(&merged, &refs(&tasks), lambda, None).unwrap();
            let tau = numbers(&merged).data;
            let mut counts = vec![0; m * n];
            for (mask, task) in found.masks.iter().zip(&tasks) {
                for (at, (x, own)) in tau.iter().zip(numbers(task).data).enumerate() {
                    let (x, own) = (f64::from(*x), f64::from(own));
                    let expected = own.abs() >= lambda * (x - own).abs();
                    prop_assert_eq!(mask.get(at), expected);
                    counts[at] += usize::from(expected);
                }
            }
            for votes in 0..=4 {
                let kept = numbers(&consensus(&merged, &refs(&tasks), lambda, votes, None).unwrap()).data;
                for (at, x) in kept.iter().enumerate() {
                    prop_assert_eq!(*x, if counts[at] >= votes { tau[at] } else { 0.0 });
                }
            }
            let statistics = found.statistics();
            prop_assert_eq!(statistics.shared.iter().sum::<usize>(), m * n);
            let kept: f64 = statistics.densities.iter().sum::<f64>() * (m * n) as f64;
            let shared = statistics.shared.iter().enumerate().map(|(k, count)| k * count);
            prop_assert!((kept - shared.sum::<usize>() as f64).abs() < 1e-9);
            prop_assert!((0..3).all(|i| statistics.jaccard[i][i] == 1.0));
        }

        #[test]
        fn bits_come_back(bits in vec(any::<bool>(), 0..200)) {
            let mask: Mask = bits.iter().copied().collect();
            prop_assert_eq!(mask.iter().collect::<Vec<_>>(), bits.clone());
            prop_assert_eq!(mask.count(), bits.iter().filter(|bit| **bit).count());
            prop_assert_eq!(Mask::from_bytes(bits.len(), &mask.to_bytes()).unwrap(), mask);
        }
    }

    #[test]
    fn sparse_updates_stay_sparse() {
        let sparse = Update::sparse(2, 3, Sparse::new(vec![(0, 1.0), (4, 2.0)]));
        let mask: Mask = [false, true, true, true, true, false].into_iter().collect();
        let kept = mask.apply(&sparse, None).unwrap();
        assert_eq!(
            kept.sparse.unwrap().entries().collect::<Vec<_>>(),
            [(4, 2.0)]
        );
        assert!(mask.apply(&dense(3, 3, 1), None).is_err());
        assert!(Mask::from_bytes(9, &[0]).is_err() && Mask::from_bytes(3, &[255]).is_err());
        assert!(TaskMasks::new(&sparse, &[&sparse], -1.0, None).is_err());
    }
}
