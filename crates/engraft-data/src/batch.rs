//! Examples ready for training and the order in which an epoch visits them.

use crate::DataError;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Images and labels in the order in which they are used.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    /// `[len, height, width]`, row-major, values in `[0, 1]`.
    pub images: Vec<f32>,
    /// `[len]`.
    pub labels: Vec<u8>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

impl Examples {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The examples at `indices`, in that order, repeats allowed.
    ///
    /// # Panics
    ///
    /// If an index is not below [`len`](Self::len).
    pub fn gather(&self, indices: &[usize]) -> Self {
        let pixels = self.height * self.width;
        let images = indices
            .iter()
            .flat_map(|&i| &self.images[i * pixels..(i + 1) * pixels]);
        Self {
            images: images.copied().collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            height: self.height,
            width: self.width,
        }
    }
}

/// Batches of one epoch: the indices `0..len`, each once, in an order that depends only on
/// `(len, seed, epoch)`. The last batch holds what is left.
///
/// # Errors
///
/// [`DataError::EmptyBatch`] if `batch_size` is 0.
pub fn batches(
    len: usize,
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Result<Vec<Vec<usize>>, DataError> {
    if batch_size == 0 {
        return Err(DataError::EmptyBatch);
    }
    // One stream an epoch: a resumed run needs the epoch's number and no generator state.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut rng);
    Ok(order.chunks(batch_size).map(<[usize]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_epoch_visits_every_example_once(len in 0usize..300, size in 1usize..40, seed: u64, epoch: u64) {
            let epoch_batches = batches(len, size, seed, epoch).unwrap();
            prop_assert_eq!(epoch_batches.len(), len.div_ceil(size));
            let full = epoch_batches.len().saturating_sub(1);
            prop_assert!(epoch_batches[..full].iter().all(|b| b.len() == size));
            let mut all: Vec<usize> = epoch_batches.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..len).collect::<Vec<_>>());
            prop_assert_eq!(epoch_batches, batches(len, size, seed, epoch).unwrap());
        }
    }

    #[test]
    fn epochs_and_seeds_have_their_own_order() {
        let order = |seed, epoch| batches(100, 10, seed, epoch).unwrap();
        assert_ne!(order(0, 0), order(0, 1));
        assert_ne!(order(0, 0), order(1, 0));
        assert!(matches!(batches(4, 0, 0, 0), Err(DataError::EmptyBatch)));
    }

    #[test]
    fn gather_keeps_order_and_repeats() {
        let images = vec![0.0, 0.1, 1.0, 1.1, 2.0, 2.1];
        let examples = Examples {
            images,
            labels: vec![7, 8, 9],
            height: 1,
            width: 2,
        };
        let picked = examples.gather(&[2, 0, 2]);
        assert_eq!(picked.images, [2.0, 2.1, 0.0, 0.1, 2.0, 2.1]);
        assert_eq!(picked.labels, [9, 7, 9]);
        assert!(examples.gather(&[]).is_empty());
    }
}
