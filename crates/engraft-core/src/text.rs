//! Batches of token sequences.

use burn::tensor::{Int, Tensor};

/// Token sequences of one length, as a tokenizer pads them.
#[derive(Debug, Clone)]
pub struct Text {
    /// Indices into the vocabulary, [batch, tokens].
    pub ids: Tensor<2, Int>,
    /// 1 for tokens, 0 for padding, [batch, tokens]; `None` where nothing is padded.
    pub mask: Option<Tensor<2, Int>>,
    /// Which segment each token belongs to, [batch, tokens]; `None` is segment 0 throughout.
    pub segments: Option<Tensor<2, Int>>,
    /// Which task each sequence belongs to, `[batch]`; `None` is task 0 throughout.
    pub tasks: Option<Tensor<1, Int>>,
}

impl Text {
    /// Sequences without padding, of one segment.
    pub fn new(ids: Tensor<2, Int>) -> Self {
        Self {
            ids,
            mask: None,
            segments: None,
            tasks: None,
        }
    }

    /// The same with padding marked: 1 for tokens, 0 for padding.
    pub fn with_mask(self, mask: Tensor<2, Int>) -> Self {
        Self {
            mask: Some(mask),
            ..self
        }
    }

    /// The same with the segment of each token.
    pub fn with_segments(self, segments: Tensor<2, Int>) -> Self {
        Self {
            segments: Some(segments),
            ..self
        }
    }

    /// The same with the task of each sequence.
    pub fn with_tasks(self, tasks: Tensor<1, Int>) -> Self {
        Self {
            tasks: Some(tasks),
            ..self
        }
    }

    /// Some of the sequences.
    pub(crate) fn select(&self, rows: Tensor<1, Int>) -> Self {
        let pick = |x: &Option<Tensor<2, Int>>| x.clone().map(|x| x.select(0, rows.clone()));
        Self {
            ids: self.ids.clone().select(0, rows.clone()),
            mask: pick(&self.mask),
            segments: pick(&self.segments),
            tasks: self.tasks.clone().map(|x| x.select(0, rows.clone())),
        }
    }

    /// Sequences and tokens of each.
    pub fn dims(&self) -> [usize; 2] {
        self.ids.dims()
    }
}
