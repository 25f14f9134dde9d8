//! Which examples each step sees.

use burn::tensor::{Device, Int, Tensor, TensorData};
use engraft_data::{DataError, Examples, batches};

use crate::error::Result;

/// What says which rows each step sees.
pub trait Batches {
    /// The rows of `step`, counted from 0: at least one.
    ///
    /// # Errors
    /// Rows that cannot be read any more.
    fn rows(&mut self, step: u64) -> Result<&[usize]>;
}

impl Batches for Batcher {
    fn rows(&mut self, step: u64) -> Result<&[usize]> {
        Ok(self.batch(step))
    }
}

/// The rows of every step: a pure function of (len, batch size, seed, step), so that a resumed run
/// needs no generator state. Every epoch visits each row once.
#[derive(Debug, Clone)]
pub struct Batcher {
    len: usize,
    size: usize,
    seed: u64,
    epoch: u64,
    order: Vec<Vec<usize>>,
}

impl Batcher {
    /// Batches of `size` out of `len` rows.
    ///
    /// # Errors
    /// A batch size of 0, or no rows.
    pub fn new(len: usize, size: usize, seed: u64) -> Result<Self> {
        if len == 0 {
            return Err(DataError::Empty.into());
        }
        Ok(Self {
            len,
            size,
            seed,
            epoch: 0,
            order: batches(len, size, seed, 0)?,
        })
    }

    /// Steps an epoch takes.
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.len() as u64
    }

    /// The rows of `step`, counted from 0.
    pub fn batch(&mut self, step: u64) -> &[usize] {
        let epoch = step / self.steps_per_epoch();
        if epoch != self.epoch {
            self.order =
                batches(self.len, self.size, self.seed, epoch).expect("the size was checked");
            self.epoch = epoch;
        }
        &self.order[(step % self.steps_per_epoch()) as usize]
    }
}

/// Images with labels on a device.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// [len, height * width].
    pub images: Tensor<2>,
    /// `[len]`.
    pub labels: Tensor<1, Int>,
}

impl Labelled {
    /// Examples on a device.
    pub fn new(examples: &Examples, device: &Device) -> Self {
        let (len, pixels) = (examples.len(), examples.height * examples.width);
        let labels: Vec<i64> = examples
            .labels
            .iter()
            .map(|label| i64::from(*label))
            .collect();
        Self {
            images: Tensor::from_data(
                TensorData::new(examples.images.clone(), [len, pixels]),
                device,
            ),
            labels: Tensor::from_data(TensorData::new(labels, [len]), device),
        }
    }

    /// The given rows, in that order.
    pub fn rows(&self, rows: &[usize]) -> Self {
        let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        let len = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [len]), &self.images.device());
        Self {
            images: self.images.clone().select(0, rows.clone()),
            labels: self.labels.clone().select(0, rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_sees_the_same_rows_whatever_was_asked_before() {
        let mut forward = Batcher::new(10, 4, 1).unwrap();
        let rows: Vec<Vec<usize>> = (0..9).map(|step| forward.batch(step).to_vec()).collect();
        let mut epoch = rows[3..6].concat();
        epoch.sort_unstable();
        assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        let mut fresh = Batcher::new(10, 4, 1).unwrap();
        for step in [7, 0, 8, 3] {
            assert_eq!(fresh.batch(step), rows[step as usize]);
        }
        assert!(Batcher::new(0, 4, 1).is_err() && Batcher::new(4, 0, 1).is_err());
    }

    #[test]
    fn rows_keep_their_labels() {
        let examples = Examples {
            images: vec![0.0, 1.0, 2.0, 3.0],
            labels: vec![5, 6],
            height: 1,
            width: 2,
        };
        let picked = Labelled::new(&examples, &Device::default()).rows(&[1, 0, 1]);
        assert_eq!(
            picked.images.to_data().try_to_vec::<f32>().unwrap(),
            [2.0, 3.0, 0.0, 1.0, 2.0, 3.0]
        );
        assert_eq!(
            picked
                .labels
                .to_data()
                .convert::<i64>()
                .try_to_vec::<i64>()
                .unwrap(),
            [6, 5, 6]
        );
    }
}
