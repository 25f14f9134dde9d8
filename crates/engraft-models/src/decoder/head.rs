//! What decoders are topped with.

use burn::tensor::{Int, Tensor, TensorData};
use engraft_core::{Ctx, Embedding, FrozenBase, Linear, Result, Slots, Text, TiedLinear};
use serde_json::Value;

use super::pass::present;
use crate::output::Logits;
use crate::parts::{Builder, Dropout, model_part};
use crate::shapes::bad;
use crate::task::Task;

/// The head of a decoder: an output layer for the next token, which may be the embedding, or a
/// classifier of the last token or of each.
#[derive(Debug, Clone)]
pub struct DecoderHead {
    /// Scores of the next token, [width, vocabulary], where the weight is not the embedding's.
    pub lm_head: Option<Linear>,
    /// The same where it is.
    pub tied: Option<TiedLinear>,
    /// Scores of classes, [width, classes].
    pub score: Option<Linear>,
    dropout: Dropout,
    config: HeadConfig,
}

model_part!(DecoderHead, this {
    lm_head => LM_HEAD,
    tied => LM_HEAD,
    score => this.config.classifier(),
} plain { dropout, config });

/// What the output layer is called.
const LM_HEAD: &str = "lm_head";

/// What decides which head a decoder has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadConfig {
    pub task: Task,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// The token that sequences are padded with.
    pub padding: Option<i64>,
    /// Before a classifier of tokens.
    dropout: f64,
    /// What a classifier of tokens is called.
    of_tokens: &'static str,
}

impl HeadConfig {
    /// The head that a config.json describes; `tied` unless it says otherwise. `of_tokens`: what the
    /// architecture calls a classifier of tokens.
    ///
    /// # Errors
    /// A task that decoders have no head for here.
    pub fn new(config: &Value, tied: bool, of_tokens: &'static str) -> Result<Self> {
        let task = Task::of(config)?;
        match task {
            Task::Bare | Task::Language | Task::Classification(1..) | Task::Tokens(1..) => {
                Ok(Self {
                    task,
                    tied: config["tie_word_embeddings"].as_bool().unwrap_or(tied),
                    padding: config["pad_token_id"].as_i64(),
                    dropout: ["classifier_dropout", "hidden_dropout"]
                        .iter()
                        .find_map(|key| config[key].as_f64())
                        .unwrap_or(0.1),
                    of_tokens,
                })
            }
            _ => Err(bad(format!(
                "found architectures {}, expected ...Model, ...ForCausalLM, ...LMHeadModel, \
                 ...ForSequenceClassification or ...ForTokenClassification with at least one label",
                config["architectures"]
            ))),
        }
    }
}

impl HeadConfig {
    /// What the classifier is called.
    fn classifier(&self) -> &'static str {
        match self.task {
            Task::Tokens(_) => self.of_tokens,
            _ => "score",
        }
    }
}

impl DecoderHead {
    pub(crate) fn new(
        config: HeadConfig,
        [width, vocabulary]: [usize; 2],
        embedding: &Embedding,
        builder: &mut Builder<'_>,
    ) -> Self {
        let language = config.task == Task::Language;
        Self {
            lm_head: (language && !config.tied)
                .then(|| builder.linear(LM_HEAD, width, vocabulary, false)),
            tied: (language && config.tied).then(|| TiedLinear::new(embedding)),
            score: match config.task {
                Task::Classification(labels) => Some(builder.linear("score", width, labels, false)),
                Task::Tokens(labels) => {
                    Some(builder.linear(config.classifier(), width, labels, true))
                }
                _ => None,
            },
            dropout: Dropout::new("dropout", config.dropout),
            config,
        }
    }

    /// Whether it scores the next token.
    pub(crate) fn is_language(&self) -> bool {
        self.config.task == Task::Language
    }

    /// What the head computes from the last hidden states [batch, tokens, width]. `prompted`: tokens
    /// that have no id lead the text.
    pub(crate) fn logits(
        &self,
        hidden: Tensor<3>,
        embedding: &Embedding,
        text: &Text,
        prompted: bool,
        ctx: &Ctx,
    ) -> Option<Logits> {
        if let (Some(score), Task::Tokens(_)) = (&self.score, self.config.task) {
            let hidden = self.dropout.forward(hidden, ctx);
            return Some(Logits::Tokens(score.forward(hidden, ctx)));
        }
        if let Some(score) = &self.score {
            let [batch, tokens, width] = hidden.dims();
            let last = match prompted {
                // As transformers does where it is given embedded tokens instead of ids.
                true => vec![tokens - 1; batch],
                false => self.last_tokens(text),
            };
            let places = last.iter().enumerate();
            let places: Vec<i64> = places
                .map(|(row, last)| (row * tokens + last) as i64)
                .collect();
            let places =
                Tensor::<1, Int>::from_data(TensorData::new(places, [batch]), &hidden.device());
            let last = hidden.reshape([batch * tokens, width]).select(0, places);
            return Some(Logits::Sequence(score.forward(last, ctx)));
        }
        self.is_language()
            .then(|| Logits::Tokens(self.next(hidden, embedding, ctx)))
    }

    /// Scores of the token that follows each, [batch, tokens, vocabulary].
    pub(crate) fn next(&self, hidden: Tensor<3>, embedding: &Embedding, ctx: &Ctx) -> Tensor<3> {
        match (&self.lm_head, &self.tied) {
            (Some(lm_head), _) => lm_head.forward(hidden, ctx),
            (None, Some(tied)) => tied.forward(hidden, embedding, None, ctx),
            (None, None) => embedding.tied(hidden, ctx),
        }
    }

    /// Shows the slot of an output layer that shares the embedding's weight.
    pub(crate) fn show_tied(&mut self, embedding: &Embedding, slots: &mut Slots<'_>) {
        if let Some(tied) = &mut self.tied {
            tied.lend(embedding, None, |linear| {
                slots.linear(LM_HEAD, linear);
            });
        }
    }

    /// The output layer's weight where merged adapters made it differ from the embedding's.
    pub(crate) fn diverged(&self, embedding: &Embedding) -> Option<FrozenBase> {
        self.tied.as_ref()?.diverged(embedding, None)
    }

    /// The head whose output layer has this weight, not the embedding's.
    pub(crate) fn untied(mut self, layer: FrozenBase) -> Self {
        self.lm_head = self.tied.take().map(|tied| tied.untied(layer));
        self.config.tied = false;
        self
    }

    /// Where each sequence ends: at the last token that is not the padding token, or, where the
    /// configuration names none, not padding.
    fn last_tokens(&self, text: &Text) -> Vec<usize> {
        let [batch, tokens] = text.dims();
        let present = match self.config.padding {
            Some(padding) => {
                let ids = text.ids.to_data().convert::<i64>();
                let ids = ids.try_to_vec::<i64>().expect("converted to i64");
                Some(ids.into_iter().map(|id| id != padding).collect())
            }
            None => present(text),
        };
        let present = present.unwrap_or_else(|| vec![true; batch * tokens]);
        let last = |row: &[bool]| row.iter().rposition(|present| *present).unwrap_or(0);
        present.chunks(tokens).map(last).collect()
    }
}
