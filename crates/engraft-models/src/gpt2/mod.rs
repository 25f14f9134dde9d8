//! GPT-2.

mod block;
mod config;

use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::{
    Adaptable, Ctx, Embedding, Error, ModelShapes, Relay, Result, Site, Slots, Text, Trained,
};
use engraft_tensor::Key;
use serde_json::Value;

pub use block::{Gpt2Attention, Gpt2Block, Gpt2FeedForward};
pub use config::Gpt2Config;

use crate::checkpoint::{Names, Origin};
use crate::decoder::{
    Cache, CausalLm, DecoderBlock, DecoderHead, HeadConfig, Pass, Reading, Untying, read,
};
use crate::output::Output;
use crate::parts::{Builder, Dropout, Norm, Part, Random, check_indices, model_part};
use crate::replication::repeated;
use crate::shapes::from_value;
use crate::task::Task;

/// The decoder of [`Gpt2`] without a head.
#[derive(Debug, Clone)]
pub struct Gpt2Body {
    /// One row for each token of the vocabulary.
    pub wte: Embedding,
    /// One row for each position.
    pub wpe: Embedding,
    /// The embedded tokens.
    pub prompt: Site,
    /// Blocks.
    pub h: Vec<Gpt2Block>,
    /// The final norm.
    pub ln_f: Norm,
    dropout: Dropout,
}

model_part!(Gpt2Body, this {
    wte => "wte",
    wpe => "wpe",
    prompt => "sites.prompt",
    h => "h",
    ln_f => "ln_f",
} plain { dropout });

/// A GPT-2, alone or with a head. Segments of a text are not looked at.
///
/// Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
#[derive(Debug, Clone)]
pub struct Gpt2 {
    /// The decoder.
    pub body: Gpt2Body,
    /// The head.
    pub head: DecoderHead,
    config: Arc<Gpt2Config>,
    pub(crate) origin: Origin,
}

model_part!(Gpt2, this {
    body => prefix(&this.config),
    head => "",
} plain { config, origin });

/// Where the decoder is in the model.
fn prefix(config: &Gpt2Config) -> &'static str {
    match config.head.task {
        Task::Bare => "",
        _ => "transformer",
    }
}

impl Gpt2 {
    /// A fresh model from the streams of `key`: weights N(0, `initializer_range`^2), gains 1, biases 0.
    ///
    /// # Errors
    /// None at present: the configuration was checked when it was read.
    pub fn new(config: &Gpt2Config, key: &Key, device: &Device, dtype: DType) -> Result<Self> {
        let mut source = Random(key.clone());
        let mut builder = Builder::new(&mut source, device, dtype, config.std());
        Ok(Self::build(config, &mut builder))
    }

    /// The model with what the builder gives.
    pub(crate) fn build(config: &Gpt2Config, builder: &mut Builder<'_>) -> Self {
        let (width, vocabulary) = (config.width, config.vocabulary);
        let mut inside = builder.within(prefix(config));
        let body = Gpt2Body {
            wte: inside.embedding("wte", vocabulary, width),
            wpe: inside.embedding("wpe", config.positions, width),
            prompt: Site::default(),
            h: (0..config.blocks)
                .map(|index| Gpt2Block::new(config, index, &mut inside.within("h")))
                .collect(),
            ln_f: Norm::new("ln_f", width, config.epsilon, &mut inside),
            dropout: Dropout::new(inside.join("drop"), config.embedding_dropout),
        };
        let head = DecoderHead::new(config.head, [width, vocabulary], &body.wte, builder);
        Self {
            body,
            head,
            config: Arc::new(config.clone()),
            origin: Origin::default(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// What a checkpoint calls the tensors of such a model.
    pub(crate) fn names(config: &Gpt2Config) -> Names {
        Names {
            prefix: "transformer",
            heads: &["lm_head.", "score.", "classifier."],
            buffers: &[".attn.bias", ".attn.masked_bias"],
            aliases: match config.head.tied {
                true => vec![("lm_head.weight", "wte.weight")],
                false => Vec::new(),
            },
            ..Names::default()
        }
    }

    /// Whether the model can read a text: the reason if not.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, or more tokens than positions.
    pub fn check(&self, text: &Text, ctx: &Ctx) -> Result<()> {
        check_indices("token", &text.ids, self.config.vocabulary)?;
        self.fits(text, 0, ctx)
    }

    /// Reads a padded batch of texts; what one token sees does not depend on padding.
    ///
    /// # Panics
    /// If it does not fit the model; see [`check`](Self::check).
    pub fn forward(&self, text: &Text, ctx: &Ctx) -> Output {
        let relay = Relay::default();
        let ctx = &ctx.with_text(text).with_relay(&relay);
        let (hidden, lead) = self.hidden(text, None, ctx);
        let logits = self
            .head
            .logits(hidden.clone(), &self.body.wte, text, lead > 0, ctx);
        Output {
            hidden,
            pooled: None,
            logits,
        }
    }

    /// The last hidden states of the text's own tokens, and how many others led them.
    fn hidden(&self, text: &Text, cache: Option<&mut Cache>, ctx: &Ctx) -> (Tensor<3>, usize) {
        let body = &self.body;
        let tokens = text.dims()[1];
        let own = body.wte.forward(text.ids.clone(), ctx);
        let first = cache.as_ref().is_none_or(|cache| cache.len() == tokens);
        let embedded = match first {
            true => body.prompt.sequence(own, ctx),
            false => body.prompt.continued(own, ctx),
        };
        let lead = embedded.dims()[1] - tokens;
        let reading = Reading {
            text,
            cache,
            embedded,
            rope: None,
        };
        let place = |x: Tensor<3>, pass: &Pass<'_>, lead: usize| {
            let x = x + self.placed(&pass.positions(lead), &pass.device, ctx);
            body.dropout.forward(x, ctx)
        };
        let hidden = read(&body.h, reading, place, ctx);
        (body.ln_f.forward(hidden, ctx), lead)
    }

    /// Rows of the position table, [batch or 1, tokens, width].
    fn placed(&self, positions: &[Vec<usize>], device: &Device, ctx: &Ctx) -> Tensor<3> {
        let shape = [positions.len(), positions[0].len()];
        let flat = positions.iter().flatten().map(|position| *position as i64);
        let data = TensorData::new(flat.collect::<Vec<i64>>(), shape);
        let positions = Tensor::<2, Int>::from_data(data, device);
        self.body.wpe.forward(positions, ctx)
    }
}

impl Gpt2 {
    /// The model whose blocks are these ranges of this one's; see [`Llama::replicated`](crate::Llama::replicated).
    /// Where a block divides its scores by its number, a repeated one keeps the number it had.
    ///
    /// # Errors
    /// A range that is empty or reaches beyond the last block.
    pub fn replicated(&self, ranges: &[[usize; 2]]) -> Result<Self> {
        let mut same = self.clone();
        same.body.h = repeated(&self.body.h, ranges)?;
        let mut config = Gpt2Config::clone(&self.config);
        config.blocks = same.body.h.len();
        config.json["n_layer"] = config.blocks.into();
        same.config = Arc::new(config);
        same.origin = self.origin.repeating(ranges);
        Ok(same)
    }
}

impl Untying for Gpt2 {
    fn table(&self) -> &Embedding {
        &self.body.wte
    }

    fn head(&self) -> &DecoderHead {
        &self.head
    }

    fn output(&mut self) -> (&mut DecoderHead, &mut HeadConfig, &mut Value) {
        let config = Arc::make_mut(&mut self.config);
        (&mut self.head, &mut config.head, &mut config.json)
    }
}

impl Trained for Gpt2 {}

impl Adaptable for Gpt2 {
    fn shapes(&self) -> ModelShapes {
        ModelShapes {
            replicated: self.origin.replicated.clone(),
            ..from_value(&self.config.json).expect("read before")
        }
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        self.show("", slots);
        self.head.show_tied(&self.body.wte, slots);
    }

    fn untie(&mut self) {
        self.untie_diverged();
    }
}

impl CausalLm for Gpt2 {
    fn forward(&self, text: &Text, ctx: &Ctx) -> Output {
        self.forward(text, ctx)
    }

    fn next(&self, text: &Text, cache: &mut Cache, ctx: &Ctx) -> Tensor<2> {
        let whole = cache.extend(text);
        let relay = std::mem::take(&mut cache.relay);
        let ctx = &ctx.with_text(&whole).with_relay(&relay);
        let (hidden, _) = self.hidden(text, Some(cache), ctx);
        let last = hidden.narrow(1, text.dims()[1] - 1, 1);
        let scores = self.head.next(last, &self.body.wte, ctx);
        cache.relay = relay;
        scores.squeeze_dim(1)
    }

    fn has_output_layer(&self) -> bool {
        self.head.is_language()
    }

    fn fits(&self, text: &Text, more: usize, ctx: &Ctx) -> Result<()> {
        let [batch, tokens] = text.dims();
        let table = &self.body.wte.linear.weight;
        let token = table.val().narrow(0, 0, 1).unsqueeze::<3>();
        let token = token.expand([batch, 1, self.config.width]);
        let lead = self
            .body
            .prompt
            .sequence(token, &ctx.with_text(&text.rows(&[0])))
            .dims()[1]
            - 1;
        let offsets = self
            .body
            .h
            .iter()
            .map(|block| block.key_value().positions(ctx));
        let front = lead + offsets.max().unwrap_or_default();
        let longest = self.config.positions;
        if front + tokens + more > longest {
            return Err(Error::Unsupported(format!(
                "found a text of {tokens} tokens, {front} tokens in front of it and {more} to follow, \
                 expected at most {longest} (n_positions) together"
            )));
        }
        Ok(())
    }
}
