//! Batches of token sequences.

use burn::tensor::{Int, Tensor, TensorData};

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
    /// 1 for the tokens of the prompt, 0 for those of the completion and for padding, [batch,
    /// tokens]; `None` where everything that is not padding belongs to the prompt. A piece that
    /// continues a text has zeros throughout.
    pub prompt: Option<Tensor<2, Int>>,
}

impl Text {
    /// Sequences without padding, of one segment.
    pub fn new(ids: Tensor<2, Int>) -> Self {
        Self {
            ids,
            mask: None,
            segments: None,
            tasks: None,
            prompt: None,
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

    /// The same with the prompt's tokens marked: 1 for those of the prompt, 0 for all others.
    pub fn with_prompt(self, prompt: Tensor<2, Int>) -> Self {
        Self {
            prompt: Some(prompt),
            ..self
        }
    }

    /// The sequences at these positions of the batch.
    pub fn rows(&self, rows: &[usize]) -> Self {
        let indices: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        let indices = TensorData::new(indices, [rows.len()]);
        let indices = Tensor::<1, Int>::from_data(indices, &self.ids.device());
        let pick = |of: &Tensor<2, Int>| of.clone().select(0, indices.clone());
        Self {
            ids: pick(&self.ids),
            mask: self.mask.as_ref().map(pick),
            segments: self.segments.as_ref().map(pick),
            prompt: self.prompt.as_ref().map(pick),
            tasks: self.tasks.clone().map(|tasks| tasks.select(0, indices)),
        }
    }

    /// Sequences and tokens of each.
    pub fn dims(&self) -> [usize; 2] {
        self.ids.dims()
    }
}
