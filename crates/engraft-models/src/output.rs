//! What a model computes.

use burn::tensor::Tensor;

/// What a Hugging Face model computes.
#[derive(Debug, Clone)]
pub struct Output {
    /// The last hidden state of the text's own tokens, or of an image's class token and patches:
    /// [batch, tokens, width].
    pub hidden: Tensor<3>,
    /// One vector a sequence, [batch, width], where the model has a pooler: from the first token,
    /// virtual tokens included.
    pub pooled: Option<Tensor<2>>,
    /// What the head computes; `None` for a bare model.
    pub logits: Option<Logits>,
}

/// What a head computes.
#[derive(Debug, Clone)]
pub enum Logits {
    /// Of whole sequences or images, [batch, labels].
    Sequence(Tensor<2>),
    /// Of each of the text's own tokens, [batch, tokens, labels or vocabulary].
    Tokens(Tensor<3>),
}

impl Logits {
    /// The logits of whole sequences, if that is what they are.
    pub fn sequence(self) -> Option<Tensor<2>> {
        match self {
            Self::Sequence(logits) => Some(logits),
            Self::Tokens(_) => None,
        }
    }

    /// The logits of tokens, if that is what they are.
    pub fn tokens(self) -> Option<Tensor<3>> {
        match self {
            Self::Tokens(logits) => Some(logits),
            Self::Sequence(_) => None,
        }
    }
}
