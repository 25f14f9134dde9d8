//! Which examples of a text set each step sees.

use std::sync::Arc;

use engraft_data::text::Order;
use engraft_data::{TextBatch, TextSet};

use crate::batcher::Batches;
use crate::error::Result;

/// The epoch and the place in it of a window of batches.
type Window = (u64, u64);

/// Batches of a text set in shuffled epochs, with texts of similar length together.
#[derive(Debug, Clone)]
pub struct TextBatches {
    set: Arc<TextSet>,
    order: Order,
    seed: u64,
    /// The window that was asked for last, and its batches.
    held: Option<(Window, Vec<Vec<usize>>)>,
}

impl TextBatches {
    /// Batches of `size` examples; lengths are sorted within `window` batches, 1 for not at all.
    ///
    /// # Errors
    /// A batch size of 0.
    pub fn new(set: Arc<TextSet>, size: usize, window: usize, seed: u64) -> Result<Self> {
        let order = Order::new(set.len(), size, seed)?.bucketed(window);
        Ok(Self {
            set,
            order,
            seed,
            held: None,
        })
    }

    /// Steps an epoch takes.
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch()
    }

    /// The tokens of these rows at a step, padded; masked tokens are those of the step's epoch.
    ///
    /// # Errors
    /// A temporary file that cannot be read any more.
    pub fn batch(&self, rows: &[usize], step: u64) -> Result<TextBatch> {
        Ok(self.set.batch(rows, self.seed, self.order.epoch(step))?)
    }
}

impl Batches for TextBatches {
    fn rows(&mut self, step: u64) -> Result<&[usize]> {
        let (window, place) = self.order.window(step);
        let window = (self.order.epoch(step), window);
        if self.held.as_ref().is_none_or(|(held, _)| *held != window) {
            let set = &self.set;
            self.held = Some((window, self.order.batches(step, |rows| set.lengths(rows))?));
        }
        Ok(&self.held.as_ref().expect("it was just filled").1[place])
    }
}
