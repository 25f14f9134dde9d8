//! BERT and RoBERTa.

mod block;
mod config;
mod embeddings;
mod head;
#[cfg(test)]
mod tests;

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    Adaptable, Ctx, Error, FrozenBase, Linear, ModelShapes, Relay, Result, Site, Slots, Text,
    Trained,
};
use engraft_tensor::{Key, ops};

pub use block::BertBlock;
pub use config::BertConfig;
pub use embeddings::Embeddings;
pub use head::BertHead;

use crate::block::without_lead;
use crate::checkpoint::{Names, Origin};
use crate::output::Output;
use crate::parts::{
    Builder, Padding, Part, Random, check_indices, check_layout, enter, model_part,
};
use crate::replication::repeated;
use crate::shapes::from_value;

/// The encoder of BERT (Devlin et al., arXiv 1810.04805), RoBERTa (Liu et al., arXiv 1907.11692) or
/// XLM-R (Conneau et al., arXiv 1911.02116), and the head that its `config.json` names.
///
/// Paths are those of `transformers` in memory.
#[derive(Debug, Clone)]
pub struct Bert {
    /// The word embeddings, before positions and segments are added.
    pub prompt: Site,
    /// What enters the encoder.
    pub embeddings: Embeddings,
    /// Blocks.
    pub layers: Vec<BertBlock>,
    /// [width, width], tanh behind it.
    pub pooler: Option<Linear>,
    /// The head of the task.
    pub head: BertHead,
    config: BertConfig,
    pub(crate) origin: Origin,
}

model_part!(Bert, this {
    prompt => format!("{}sites.prompt", this.config.prefix()),
    embeddings => format!("{}embeddings", this.config.prefix()),
    layers => format!("{}encoder.layer", this.config.prefix()),
    pooler => format!("{}pooler.dense", this.config.prefix()),
    head => "",
} plain { config, origin });

impl Bert {
    /// A fresh model: weights N(0, initializer_range^2), offsets 0, gains 1, from the streams of `key`.
    ///
    /// # Errors
    /// None at present; the configuration was checked when it was read.
    pub fn new(config: &BertConfig, key: &Key, device: &Device, dtype: DType) -> Result<Self> {
        let mut source = Random(key.clone());
        Ok(Self::build(
            config,
            &mut Builder::new(&mut source, device, dtype, config.std()),
        ))
    }

    pub(crate) fn build(config: &BertConfig, builder: &mut Builder<'_>) -> Self {
        let prefix = config.prefix();
        let prefix = prefix.trim_end_matches('.');
        let keys = &config.keys;
        let width = keys.hidden_size;
        let mut encoder = builder.within(prefix);
        let embeddings = Embeddings::new(config, &mut encoder);
        let layers = (0..keys.num_hidden_layers)
            .map(|index| BertBlock::new(&format!("encoder.layer.{index}"), config, &mut encoder))
            .collect();
        let pooler = config
            .has_pooler()
            .then(|| encoder.linear("pooler.dense", width, width, true));
        let head = BertHead::new(config, &embeddings.words, builder);
        Self {
            prompt: Site::default(),
            embeddings,
            layers,
            pooler,
            head,
            config: config.clone(),
            origin: Origin::default(),
        }
    }

    /// What a checkpoint calls the tensors of such a model.
    pub(crate) fn names(config: &BertConfig) -> Names {
        let mut names = Names {
            prefix: config.base(),
            heads: match config.is_roberta() {
                true => &["lm_head.", "classifier.", "qa_outputs.", "pooler."],
                false => &["cls.", "classifier.", "qa_outputs.", "pooler."],
            },
            read: &[
                (".LayerNorm.gamma", ".LayerNorm.weight"),
                (".LayerNorm.beta", ".LayerNorm.bias"),
            ],
            buffers: &["embeddings.position_ids", "embeddings.token_type_ids"],
            ..Names::default()
        };
        let head = match config.is_roberta() {
            true => [
                "lm_head.decoder.weight",
                "lm_head.decoder.bias",
                "lm_head.bias",
            ],
            false => [
                "cls.predictions.decoder.weight",
                "cls.predictions.decoder.bias",
                "cls.predictions.bias",
            ],
        };
        let [table, decoder, bias] = head;
        names.writes_aliases = !config.is_tied();
        names.aliases = match config.is_tied() {
            true => vec![
                (decoder, bias),
                (table, "embeddings.word_embeddings.weight"),
            ],
            false => vec![(bias, decoder)],
        };
        names
    }

    /// The model whose blocks are these ranges of this one's; see [`Llama::replicated`](crate::Llama::replicated).
    ///
    /// # Errors
    /// A range that is empty or reaches beyond the last block.
    pub fn replicated(&self, ranges: &[[usize; 2]]) -> Result<Self> {
        let mut same = self.clone();
        same.layers = repeated(&self.layers, ranges)?;
        same.config.keys.num_hidden_layers = same.layers.len();
        same.config.json["num_hidden_layers"] = same.layers.len().into();
        same.origin = self.origin.repeating(ranges);
        Ok(same)
    }

    /// The configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// By how many positions keys in front move the text's own tokens back.
    fn offset(&self, ctx: &Ctx) -> usize {
        let blocks = self.layers.iter();
        let offsets = blocks.map(|block| block.attention.key_value.positions(ctx));
        offsets.max().unwrap_or(0)
    }

    /// Whether the model has what the text's indices ask for.
    fn check(&self, text: &Text) -> Result<()> {
        let keys = &self.config.keys;
        check_layout(text)?;
        check_indices("token", &text.ids, keys.vocab_size)?;
        match &text.segments {
            Some(segments) => check_indices("segment", segments, keys.type_vocab_size),
            None => Ok(()),
        }
    }

    /// Whether there are positions for so many tokens, virtual ones included.
    fn check_length(&self, tokens: usize, ctx: &Ctx) -> Result<()> {
        let positions = self.config.keys.max_position_embeddings;
        let first = self.config.first_position() + self.offset(ctx);
        let room = positions.saturating_sub(first);
        if tokens > room {
            return Err(Error::Unsupported(format!(
                "found {tokens} tokens, virtual ones included, expected at most {room}: the model has \
                 {positions} positions"
            )));
        }
        Ok(())
    }

    /// [`forward`](Self::forward) of a text that may not fit the model.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, segments that the model lacks, or more tokens than positions.
    pub fn read(&self, text: &Text, ctx: &Ctx) -> Result<Output> {
        self.check(text)?;
        self.outputs(text, ctx)
    }

    /// Hidden states, pooled vector and logits of a text.
    ///
    /// # Panics
    /// If it does not fit the model; [`read`](Self::read) says why.
    pub fn forward(&self, text: &Text, ctx: &Ctx) -> Output {
        self.outputs(text, ctx)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn outputs(&self, text: &Text, ctx: &Ctx) -> Result<Output> {
        let relay = Relay::default();
        let ctx = &ctx.with_text(text).with_relay(&relay);
        let words = self.embeddings.words.forward(text.ids.clone(), ctx);
        let words = self.prompt.sequence(words, ctx);
        let prompt = words.dims()[1] - text.dims()[1];
        self.check_length(words.dims()[1], ctx)?;
        let mut x = self.embeddings.forward(words, text, self.offset(ctx), ctx);
        let padding = Padding::new(text, x.dtype());
        let mut lead = 0;
        for block in &self.layers {
            (x, lead) = enter(&block.sequence, x, lead, ctx);
            x = block.forward(x, &padding, ctx);
        }
        let x = without_lead(x, lead);
        let first: Tensor<2> = x.clone().narrow(1, 0, 1).squeeze_dim(1);
        let pooled = self
            .pooler
            .as_ref()
            .map(|pooler| ops::tanh(pooler.forward(first.clone(), ctx)));
        let hidden = without_lead(x, prompt);
        let sequence = pooled.clone().unwrap_or(first);
        let logits = self
            .head
            .forward(hidden.clone(), sequence, &self.embeddings.words, ctx);
        Ok(Output {
            hidden,
            pooled,
            logits,
        })
    }
}

impl Bert {
    /// The model whose output of masked language modelling has a weight of its own, a copy of the word
    /// embeddings where it was the same.
    pub(crate) fn untied(&self) -> Self {
        match &self.head.tied {
            Some(_) => self.with_output(None),
            None => self.clone(),
        }
    }

    fn with_output(&self, layer: Option<FrozenBase>) -> Self {
        let mut same = self.clone();
        same.head = same.head.untied(&self.embeddings.words, layer);
        same.config.keys.tie_word_embeddings = Some(false);
        same.config.json["tie_word_embeddings"] = false.into();
        same
    }
}

impl Trained for Bert {}

impl Adaptable for Bert {
    fn shapes(&self) -> ModelShapes {
        ModelShapes {
            replicated: self.origin.replicated.clone(),
            ..from_value(&self.config.json).expect("the configuration was read before")
        }
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        self.show("", slots);
        self.head.show_tied(&self.embeddings.words, slots);
    }

    fn untie(&mut self) {
        if let Some(layer) = self.head.diverged(&self.embeddings.words) {
            *self = self.with_output(Some(layer));
        }
    }
}
