//! An update laid onto rows of a weight, its factors made ready once.

use std::ops::Range;

use engraft_kernels::{Mat, Onto, matmul};

use super::Update;
use crate::error::{Error, Result};

/// An update whose strips of rows are asked for one after the other, from any thread.
#[derive(Debug)]
pub struct Strips<'a> {
    update: &'a Update,
    columns: usize,
    rank: usize,
    /// L and R in single precision.
    left: Vec<f32>,
    right: Vec<f32>,
}

impl<'a> Strips<'a> {
    /// Makes the factors ready.
    ///
    /// # Errors
    /// An update whose shape only the base knows.
    pub fn new(update: &'a Update) -> Result<Self> {
        let (_, columns) = update.known_shape()?;
        let (rank, left, right) = match &update.low_rank {
            Some(factors) => (
                factors.rank(),
                factors.left.to_f32(),
                factors.right.to_f32(),
            ),
            None => (0, Vec::new(), Vec::new()),
        };
        Ok(Self {
            update,
            columns,
            rank,
            left,
            right,
        })
    }

    /// `strip += ` rows `range` of dW. `base`: the same rows of W, for updates that
    /// [need it](Update::needs_base).
    ///
    /// # Errors
    /// A base that is missing.
    pub fn add_to(
        &self,
        range: Range<usize>,
        base: Option<&[f32]>,
        strip: &mut [f32],
    ) -> Result<()> {
        let start = range.start * self.columns;
        if let Some(dense) = &self.update.dense {
            let added = strip.iter_mut().zip(&dense.data[start..]);
            added.for_each(|(x, d)| *x += d);
        }
        if let Some(sparse) = &self.update.sparse {
            sparse.add_to(start as u64, strip);
        }
        if self.rank > 0 && !strip.is_empty() {
            let left = &self.left[range.start * self.rank..range.end * self.rank];
            matmul(
                (strip, self.columns),
                Onto::Present,
                Mat::new(left, range.len(), self.rank),
                Mat::new(&self.right, self.rank, self.columns),
                1.0,
            );
        }
        if self.update.needs_base() {
            let Some(base) = base else {
                let reason = "the update is relative to the base: give `base`";
                return Err(Error::input(reason));
            };
            self.add_scaled(range, base, strip);
        }
        Ok(())
    }

    /// `strip += diag(r) base + base diag(c)`.
    fn add_scaled(&self, range: Range<usize>, base: &[f32], strip: &mut [f32]) {
        let rows = self.update.rows.as_ref().map(|rows| &rows[range]);
        let columns = self.update.columns.as_deref();
        let width = self.columns.max(1);
        let lines = strip.chunks_mut(width).zip(base.chunks(width));
        for (at, (strip, base)) in lines.enumerate() {
            let row = rows.map_or(0.0, |rows| rows[at]);
            let pairs = strip.iter_mut().zip(base);
            match columns {
                None => pairs.for_each(|(x, w)| *x += (row * f64::from(*w)) as f32),
                Some(columns) => pairs
                    .zip(columns)
                    .for_each(|((x, w), c)| *x += ((row + c) * f64::from(*w)) as f32),
            }
        }
    }
}
