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

    /// The same with the prompt's tokens marked: 1 for those of the prompt, 0 for all others.
    pub fn with_prompt(self, prompt: Tensor<2, Int>) -> Self {
        Self {
            prompt: Some(prompt),
            ..self
        }
    }

    /// These sequences of the batch alone.
    pub fn rows(&self, rows: Tensor<1, Int>) -> Self {
        let pick = |all: &Tensor<2, Int>| all.clone().select(0, rows.clone());
        Self {
            ids: pick(&self.ids),
            mask: self.mask.as_ref().map(pick),
            segments: self.segments.as_ref().map(pick),
            prompt: self.prompt.as_ref().map(pick),
        }
    }

    /// Sequences and tokens of each.
    pub fn dims(&self) -> [usize; 2] {
        self.ids.dims()
    }
}
