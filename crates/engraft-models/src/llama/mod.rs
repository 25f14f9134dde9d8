//! Llama and its relatives: Mistral, Qwen2, Qwen3, Gemma.

mod attention;
mod block;
mod config;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    Adaptable, Ctx, Embedding, ModelShapes, Relay, Result, Site, Slots, Text, Trained,
};
use engraft_tensor::Key;
use serde_json::Value;

pub use attention::LlamaAttention;
pub use block::{GatedFeedForward, LlamaBlock};
pub use config::LlamaConfig;

use crate::checkpoint::{Names, Origin};
use crate::decoder::{Cache, CausalLm, DecoderHead, HeadConfig, Reading, RmsNorm, Untying, read};
use crate::output::Output;
use crate::parts::{Builder, Part, Random, check_indices, model_part};
use crate::replication::{order, repeated};
use crate::shapes::from_value;
use crate::task::Task;

/// The decoder of [`Llama`] without a head.
#[derive(Debug, Clone)]
pub struct LlamaBody {
    /// One row for each token of the vocabulary.
    pub embed_tokens: Embedding,
    /// The embedded tokens.
    pub prompt: Site,
    /// Blocks.
    pub layers: Vec<LlamaBlock>,
    /// The final norm.
    pub norm: RmsNorm,
}

model_part!(LlamaBody, this {
    embed_tokens => "embed_tokens",
    prompt => "sites.prompt",
    layers => "layers",
    norm => "norm",
} plain {});

/// A decoder of the Llama family, alone or with a head.
///
/// Touvron et al., arXiv 2302.13971; Jiang et al., arXiv 2310.06825 (Mistral); Yang et al., arXiv
/// 2407.10671 (Qwen2).
#[derive(Debug, Clone)]
pub struct Llama {
    /// The decoder.
    pub body: LlamaBody,
    /// The head.
    pub head: DecoderHead,
    config: Arc<LlamaConfig>,
    pub(crate) origin: Origin,
}

model_part!(Llama, this {
    body => prefix(&this.config),
    head => "",
} plain { config, origin });

impl Llama {
    /// A fresh model from the streams of `key`: weights N(0, `initializer_range`^2), gains 1, biases 0.
    ///
    /// # Errors
    /// None at present: the configuration was checked when it was read.
    pub fn new(config: &LlamaConfig, key: &Key, device: &Device, dtype: DType) -> Result<Self> {
        let mut source = Random(key.clone());
        Ok(Self::build(
            config,
            &mut Builder::new(&mut source, device, dtype, config.std()),
        ))
    }

    /// The model with what the builder gives.
    pub(crate) fn build(config: &LlamaConfig, builder: &mut Builder<'_>) -> Self {
        let LlamaConfig {
            width, vocabulary, ..
        } = *config;
        let mut inside = builder.within(prefix(config));
        let body = LlamaBody {
            embed_tokens: inside
                .embedding("embed_tokens", vocabulary, width)
                .with_padding(config.padding),
            prompt: Site::default(),
            layers: (0..config.blocks())
                .map(|index| LlamaBlock::new(config, index, &mut inside.within("layers")))
                .collect(),
            norm: RmsNorm::new("norm", width, config.norm, &mut inside),
        };
        let size = [width, vocabulary];
        let head = DecoderHead::new(config.head, size, &body.embed_tokens, builder);
        Self {
            body,
            head,
            config: Arc::new(config.clone()),
            origin: Origin::default(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// What a checkpoint calls the tensors of such a model.
    pub(crate) fn names(config: &LlamaConfig) -> Names {
        Names {
            prefix: "model",
            heads: &["lm_head.", "score.", "classifier."],
            buffers: &["rotary_emb.inv_freq"],
            aliases: match config.head.tied {
                true => vec![("lm_head.weight", "embed_tokens.weight")],
                false => Vec::new(),
            },
            ..Names::default()
        }
    }

    /// Whether the model can read a text: the reason if not.
    ///
    /// # Errors
    /// Tokens outside the vocabulary.
    pub fn check(&self, text: &Text) -> Result<()> {
        check_indices("token", &text.ids, self.config.vocabulary)
    }

    /// Reads a padded batch of texts; what one token sees does not depend on padding.
    ///
    /// # Panics
    /// If it does not fit the model; see [`check`](Self::check).
    pub fn forward(&self, text: &Text, ctx: &Ctx) -> Output {
        let relay = Relay::default();
        let ctx = &ctx.with_text(text).with_relay(&relay);
        let (hidden, lead) = self.hidden(text, None, ctx);
        let embedding = &self.body.embed_tokens;
        let logits = self
            .head
            .logits(hidden.clone(), embedding, text, lead > 0, ctx);
        Output {
            hidden,
            pooled: None,
            logits,
        }
    }

    /// The last hidden states of the text's own tokens, and how many others led them.
    fn hidden(&self, text: &Text, cache: Option<&mut Cache>, ctx: &Ctx) -> (Tensor<3>, usize) {
        let body = &self.body;
        let own = body.embed_tokens.forward(text.ids.clone(), ctx);
        let own = match self.config.embedding_scale {
            Some(scale) => own * scale,
            None => own,
        };
        let first = cache
            .as_ref()
            .is_none_or(|cache| cache.len() == text.dims()[1]);
        let embedded = match first {
            true => body.prompt.sequence(own, ctx),
            false => body.prompt.continued(own, ctx),
        };
        let lead = embedded.dims()[1] - text.dims()[1];
        let reading = Reading {
            text,
            cache,
            embedded,
            rope: Some(&self.config.rope),
        };
        let hidden = read(&body.layers, reading, |x, _, _| x, ctx);
        (body.norm.forward(hidden, ctx), lead)
    }

    /// The model whose blocks are these ranges `[start, end)` of this one's, one after the other, with
    /// the same weights: the `layer_replication` of PEFT. Paths are those of the new order.
    ///
    /// # Errors
    /// A range that is empty or reaches beyond the last block.
    pub fn replicated(&self, ranges: &[[usize; 2]]) -> Result<Self> {
        let blocks = order(self.body.layers.len(), ranges)?;
        let mut same = self.clone();
        same.body.layers = repeated(&self.body.layers, ranges)?;
        same.config = Arc::new(self.config.with_blocks(&blocks));
        same.origin = self.origin.repeating(ranges);
        Ok(same)
    }
}

/// Where the decoder is in the model.
fn prefix(config: &LlamaConfig) -> &'static str {
    match config.head.task {
        Task::Bare => "",
        _ => "model",
    }
}

impl Untying for Llama {
    fn table(&self) -> &Embedding {
        &self.body.embed_tokens
    }

    fn head(&self) -> &DecoderHead {
        &self.head
    }

    fn output(&mut self) -> (&mut DecoderHead, &mut HeadConfig, &mut Value) {
        let config = Arc::make_mut(&mut self.config);
        (&mut self.head, &mut config.head, &mut config.json)
    }
}

impl Trained for Llama {}

impl Adaptable for Llama {
    fn shapes(&self) -> ModelShapes {
        ModelShapes {
            replicated: self.origin.replicated.clone(),
            ..from_value(&self.config.json).expect("read before")
        }
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        self.show("", slots);
        self.head.show_tied(&self.body.embed_tokens, slots);
    }

    fn untie(&mut self) {
        self.untie_diverged();
    }
}

impl CausalLm for Llama {
    fn forward(&self, text: &Text, ctx: &Ctx) -> Output {
        self.forward(text, ctx)
    }

    fn next(&self, text: &Text, cache: &mut Cache, ctx: &Ctx) -> Tensor<2> {
        let whole = cache.extend(text);
        let relay = std::mem::take(&mut cache.relay);
        let ctx = &ctx.with_text(&whole).with_relay(&relay);
        let (hidden, _) = self.hidden(text, Some(cache), ctx);
        let last = hidden.narrow(1, text.dims()[1] - 1, 1);
        let scores = self.head.next(last, &self.body.embed_tokens, ctx);
        cache.relay = relay;
        scores.squeeze_dim(1)
    }

    fn has_output_layer(&self) -> bool {
        self.head.is_language()
    }
}
