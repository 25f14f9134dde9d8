//! What enters the encoder.

use burn::tensor::{Int, Tensor, TensorData};
use engraft_core::{Ctx, Embedding, Text};

use super::config::BertConfig;
use crate::parts::{Builder, Dropout, Norm, model_part};

/// LayerNorm(words + segments + positions).
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// Of the vocabulary, [vocabulary, width].
    pub words: Embedding,
    /// Of the positions, [positions, width].
    pub positions: Embedding,
    /// Of the segments, [segments, width].
    pub segments: Option<Embedding>,
    /// The norm.
    pub norm: Norm,
    dropout: Dropout,
    /// RoBERTa: the token that has no position.
    padding: Option<usize>,
}

model_part!(Embeddings, this {
    words => "word_embeddings",
    positions => "position_embeddings",
    segments => "token_type_embeddings",
    norm => "LayerNorm",
} plain { dropout, padding });

impl Embeddings {
    pub(super) fn new(config: &BertConfig, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within("embeddings");
        let (keys, width) = (&config.keys, config.keys.hidden_size);
        let segments = keys.type_vocab_size;
        Self {
            words: builder
                .embedding("word_embeddings", keys.vocab_size, width)
                .with_padding(config.padding()),
            positions: builder
                .embedding("position_embeddings", keys.max_position_embeddings, width)
                .with_padding(config.padding_position()),
            segments: (segments > 0)
                .then(|| builder.embedding("token_type_embeddings", segments, width)),
            norm: Norm::new("LayerNorm", width, keys.layer_norm_eps, &mut builder),
            dropout: Dropout::new(builder.path(), keys.hidden_dropout_prob),
            padding: config.padding_position(),
        }
    }

    /// The embedded sequence, [batch, lead + tokens, width], from its word embeddings; the text's
    /// own tokens start `offset` positions later than they would.
    pub(super) fn forward(
        &self,
        words: Tensor<3>,
        text: &Text,
        offset: usize,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let [batch, length, _] = words.dims();
        let lead = length - text.dims()[1];
        let mut x = words;
        if let Some(table) = &self.segments {
            let own = match &text.segments {
                Some(own) => own.clone(),
                None => text.ids.zeros_like(),
            };
            let segments = match lead {
                0 => own,
                _ => Tensor::cat(vec![Tensor::zeros([batch, lead], &own.device()), own], 1),
            };
            x = x + table.forward(segments, ctx);
        }
        let positions = self.positions_of(text, lead, offset);
        x = x + self.positions.forward(positions, ctx);
        self.dropout.forward(self.norm.forward(x, ctx), ctx)
    }

    /// Positions, [batch or 1, lead + tokens]. RoBERTa counts tokens that are not padding, from the
    /// one after padding's own index; where virtual tokens lead, it counts all, as `transformers` does
    /// for a sequence that is given as embeddings.
    fn positions_of(&self, text: &Text, lead: usize, offset: usize) -> Tensor<2, Int> {
        let length = lead + text.dims()[1];
        let device = text.ids.device();
        let count = |first: usize| {
            let positions: Vec<i64> = (first..first + length).map(|at| at as i64).collect();
            Tensor::from_data(TensorData::new(positions, [1, length]), &device)
        };
        match self.padding {
            None => count(offset),
            Some(padding) if lead > 0 => count(padding + 1),
            Some(padding) => {
                let padding = padding as i64;
                let tokens = text.ids.clone().not_equal_elem(padding).int();
                (tokens.clone().cumsum(1) + offset as i64) * tokens + padding
            }
        }
    }
}
