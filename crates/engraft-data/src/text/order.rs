//! The order in which an epoch visits examples.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::error::{DataError, Result};

/// Batches of shuffled epochs: a pure function of (len, size, seed, epoch, step) that holds nothing
/// for each example, so that a file may have any number of rows and a resumed run needs no state.
///
/// Each epoch visits every index below `len` once. The shuffle is a Feistel network over the
/// smallest even number of bits that holds `len`, walked until it falls below `len`. With a window
/// of several batches, their examples are sorted by length before they are divided, so that little
/// is padded; the batches of a window are then shuffled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    len: usize,
    size: usize,
    seed: u64,
    window: usize,
}

impl Order {
    /// Batches of `size` out of `len` examples.
    ///
    /// # Errors
    /// A batch size of 0, or no examples.
    pub fn new(len: usize, size: usize, seed: u64) -> Result<Self> {
        match (len, size) {
            (0, _) => Err(DataError::Empty),
            (_, 0) => Err(DataError::EmptyBatch),
            _ => Ok(Self {
                len,
                size,
                seed,
                window: 1,
            }),
        }
    }

    /// The same with examples of similar length together, among those of `window` batches.
    pub fn bucketed(self, window: usize) -> Self {
        Self {
            window: window.max(1),
            ..self
        }
    }

    /// Batches of an epoch; the last one in shuffled order may be smaller.
    pub fn steps_per_epoch(&self) -> u64 {
        self.len.div_ceil(self.size) as u64
    }

    /// The epoch of a step, counted from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// The window of a step: steps of the same window share one call of [`batches`](Self::batches).
    pub fn window(&self, step: u64) -> (u64, usize) {
        (
            (step % self.steps_per_epoch()) / self.window as u64,
            (step % self.steps_per_epoch()) as usize % self.window,
        )
    }

    /// The batches of the window that a step is in. `lengths` is asked for the lengths of the
    /// window's examples if there are several batches.
    ///
    /// # Errors
    /// What `lengths` returns.
    pub fn batches(
        &self,
        step: u64,
        lengths: impl FnOnce(&[usize]) -> Result<Vec<usize>>,
    ) -> Result<Vec<Vec<usize>>> {
        let (epoch, window) = (self.epoch(step), self.window(step).0);
        let width = self.size * self.window;
        let start = window as usize * width;
        let shuffle = Shuffle::new(self.len, self.seed, epoch);
        let mut rows: Vec<usize> = (start..(start + width).min(self.len))
            .map(|place| shuffle.at(place))
            .collect();
        if self.window > 1 {
            let lengths = lengths(&rows)?;
            let mut sorted: Vec<(usize, usize)> = lengths.into_iter().zip(0..).collect();
            sorted.sort_unstable();
            rows = sorted.into_iter().map(|(_, place)| rows[place]).collect();
        }
        let mut batches: Vec<Vec<usize>> = rows.chunks(self.size).map(<[usize]>::to_vec).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ mix(epoch));
        rng.set_stream(window);
        batches.shuffle(&mut rng);
        Ok(batches)
    }
}

/// A permutation of `0..len`.
struct Shuffle {
    len: u64,
    half: u32,
    keys: [u64; 8],
}

impl Shuffle {
    fn new(len: usize, seed: u64, epoch: u64) -> Self {
        let bits = usize::BITS - len.saturating_sub(1).leading_zeros();
        let key = mix(mix(seed) ^ epoch);
        let keys = std::array::from_fn(|round| mix(key ^ mix(round as u64 + 1)));
        Self {
            len: len as u64,
            half: bits.div_ceil(2).max(1),
            keys,
        }
    }

    /// Where a place below `len` goes.
    fn at(&self, place: usize) -> usize {
        let mask = (1 << self.half) - 1;
        let mut value = place as u64;
        loop {
            let (mut left, mut right) = (value >> self.half, value & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            value = left << self.half | right;
            if value < self.len {
                return value as usize;
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch(order: &Order, epoch: u64, lengths: &[usize]) -> Vec<Vec<usize>> {
        let start = epoch * order.steps_per_epoch();
        (start..start + order.steps_per_epoch())
            .map(|step| {
                let lengths = |rows: &[usize]| Ok(rows.iter().map(|row| lengths[*row]).collect());
                order.batches(step, lengths).unwrap()[order.window(step).1].clone()
            })
            .collect()
    }

    proptest! {
        #[test]
        fn an_epoch_visits_every_example_once(
            lengths in prop::collection::vec(1usize..50, 1..300),
            size in 1usize..40, window in 1usize..6, seed: u64, number in 0u64..3,
        ) {
            let order = Order::new(lengths.len(), size, seed).unwrap().bucketed(window);
            let batches = epoch(&order, number, &lengths);
            prop_assert!(batches.iter().all(|batch| (1..=size).contains(&batch.len())));
            prop_assert!(batches.iter().filter(|batch| batch.len() < size).count() <= 1);
            let mut all = batches.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert_eq!(epoch(&order, number, &lengths), batches);
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_places_are_spread() {
        let lengths = vec![1; 1000];
        let first =
            |seed, number| epoch(&Order::new(1000, 10, seed).unwrap(), number, &lengths).concat();
        assert!(first(0, 0) != first(0, 1) && first(0, 0) != first(1, 0));
        // Where examples 0 and 1 land: uniform over ten bins within four standard deviations, and
        // next to each other as rarely as chance has it.
        let (mut bins, mut neighbours) = ([0u32; 10], 0);
        for seed in 0..2000 {
            let shuffle = Shuffle::new(1000, seed, 0);
            bins[shuffle.at(0) / 100] += 1;
            neighbours += u32::from(shuffle.at(0).abs_diff(shuffle.at(1)) == 1);
        }
        assert!(
            bins.iter().all(|count| count.abs_diff(200) < 54),
            "{bins:?}"
        );
        assert!(neighbours < 4 + 12, "{neighbours}");
        assert!(Order::new(0, 1, 0).is_err() && Order::new(1, 0, 0).is_err());
    }

    #[test]
    fn bucketing_pads_less() {
        let lengths: Vec<usize> = (0..640).map(|row| 1 + (row * 7919) % 100).collect();
        let padded = |window| {
            let order = Order::new(640, 16, 5).unwrap().bucketed(window);
            let longest = |batch: &Vec<usize>| batch.iter().map(|row| lengths[*row]).max().unwrap();
            epoch(&order, 0, &lengths)
                .iter()
                .map(|batch| batch.len() * longest(batch))
                .sum::<usize>()
        };
        let total: usize = lengths.iter().sum();
        let (plain, bucketed) = (padded(1) - total, padded(20) - total);
        assert!(bucketed * 5 < plain, "{bucketed} against {plain}");
    }
}
