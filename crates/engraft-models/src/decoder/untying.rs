//! Decoders whose output layer gets a weight of its own.

use engraft_core::{Embedding, FrozenBase};
use serde_json::Value;

use super::head::{DecoderHead, HeadConfig};

/// A decoder whose output layer may share the embedding's weight.
pub(crate) trait Untying: Clone {
    /// The embedding.
    fn table(&self) -> &Embedding;

    /// The head.
    fn head(&self) -> &DecoderHead;

    /// The head, what the configuration says of it, and the `config.json`.
    fn output(&mut self) -> (&mut DecoderHead, &mut HeadConfig, &mut Value);

    /// The model whose output layer has this weight, not the embedding's.
    fn with_output(&self, layer: FrozenBase) -> Self {
        let mut same = self.clone();
        let (head, config, json) = same.output();
        *head = head.clone().untied(layer);
        config.tied = false;
        json["tie_word_embeddings"] = false.into();
        same
    }

    /// The model whose output layer has a weight of its own, a copy of the embedding's where it was
    /// the same.
    fn untied(&self) -> Self {
        if self.head().tied.is_none() {
            return self.clone();
        }
        let weight = self.table().linear.weight.val().transpose();
        self.with_output(FrozenBase::new(weight, None))
    }

    /// Unties the output layer where merged adapters made its weight another than the embedding's.
    fn untie_diverged(&mut self) {
        if let Some(layer) = self.head().diverged(self.table()) {
            *self = self.with_output(layer);
        }
    }
}
