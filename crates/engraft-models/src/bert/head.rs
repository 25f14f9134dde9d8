//! What tops the encoder.

use burn::module::Param;
use burn::tensor::Tensor;
use engraft_core::{Ctx, Embedding, FrozenBase, Linear, Slots, TiedLinear};
use engraft_tensor::{Init, ops};

use super::config::BertConfig;
use crate::activation::Activation;
use crate::output::Logits;
use crate::parts::{Builder, Dropout, Norm, model_part};
use crate::task::Task;

/// The head of a task.
///
/// - Classification: output(pooled) of BERT, output(tanh(dense(first token))) of RoBERTa.
/// - Token classification: output(hidden state).
/// - Masked language modelling: output(norm(f(dense(hidden state)))), where output is the table of
///   word embeddings and an offset, unless it is untied.
#[derive(Debug, Clone)]
pub struct BertHead {
    /// [width, width].
    pub dense: Option<Linear>,
    /// Before the vocabulary.
    pub norm: Option<Norm>,
    /// [width, labels or vocabulary].
    pub output: Option<Linear>,
    /// The output whose weight is the table of word embeddings.
    pub tied: Option<TiedLinear>,
    /// Offset of a tied output, `[vocabulary]`.
    pub bias: Option<Param<Tensor<1>>>,
    names: Names,
    task: Task,
    activation: Activation,
    dropouts: [Dropout; 2],
}

model_part!(BertHead, this {
    dense => this.names.dense,
    norm => this.names.norm,
    output => this.names.output,
    tied => this.names.output,
    bias => this.names.bias,
} plain { names, task, activation, dropouts });

#[derive(Debug, Clone, Copy, Default)]
struct Names {
    dense: &'static str,
    norm: &'static str,
    output: &'static str,
    bias: &'static str,
}

fn names(task: Task, roberta: bool) -> Names {
    match (task, roberta) {
        (Task::MaskedLanguage, false) => Names {
            dense: "cls.predictions.transform.dense",
            norm: "cls.predictions.transform.LayerNorm",
            output: "cls.predictions.decoder",
            bias: "cls.predictions.bias",
        },
        (Task::MaskedLanguage, true) => Names {
            dense: "lm_head.dense",
            norm: "lm_head.layer_norm",
            output: "lm_head.decoder",
            bias: "lm_head.bias",
        },
        (Task::Classification(_), true) => Names {
            dense: "classifier.dense",
            output: "classifier.out_proj",
            ..Names::default()
        },
        _ => Names {
            output: "classifier",
            ..Names::default()
        },
    }
}

impl BertHead {
    pub(super) fn new(config: &BertConfig, words: &Embedding, builder: &mut Builder<'_>) -> Self {
        let (task, roberta) = (config.task, config.is_roberta());
        let names = names(task, roberta);
        let (width, vocabulary) = (config.keys.hidden_size, config.keys.vocab_size);
        let language = task == Task::MaskedLanguage;
        let labels = match task {
            Task::Classification(labels) | Task::Tokens(labels) => Some(labels),
            _ => (language && !config.is_tied()).then_some(vocabulary),
        };
        let epsilon = config.keys.layer_norm_eps;
        Self {
            dense: (!names.dense.is_empty())
                .then(|| builder.linear(names.dense, width, width, true)),
            norm: language.then(|| Norm::new(names.norm, width, epsilon, builder)),
            output: labels.map(|labels| builder.linear(names.output, width, labels, true)),
            tied: (language && config.is_tied()).then(|| TiedLinear::new(words)),
            bias: (language && config.is_tied())
                .then(|| builder.param(names.bias, [vocabulary], Init::ZEROS)),
            names,
            task,
            activation: match roberta {
                true => Activation::Gelu,
                false => config.activation,
            },
            dropouts: ["classifier", "classifier.dense"]
                .map(|name| Dropout::new(name, config.classifier_dropout())),
        }
    }

    /// Logits from the hidden states of the text's own tokens, the vector that stands for the whole
    /// sequence (pooled, RoBERTa: the first token's), and the word embeddings.
    pub(super) fn forward(
        &self,
        hidden: Tensor<3>,
        sequence: Tensor<2>,
        words: &Embedding,
        ctx: &Ctx,
    ) -> Option<Logits> {
        let [before, within] = &self.dropouts;
        match self.task {
            Task::Classification(_) => {
                let mut x = before.forward(sequence, ctx);
                if let Some(dense) = &self.dense {
                    x = within.forward(ops::tanh(dense.forward(x, ctx)), ctx);
                }
                Some(Logits::Sequence(self.output.as_ref()?.forward(x, ctx)))
            }
            Task::Tokens(_) => {
                let x = before.forward(hidden, ctx);
                Some(Logits::Tokens(self.output.as_ref()?.forward(x, ctx)))
            }
            Task::MaskedLanguage => {
                let x = self.dense.as_ref()?.forward(hidden, ctx);
                let x = self.norm.as_ref()?.forward(self.activation.forward(x), ctx);
                Some(Logits::Tokens(match (&self.output, &self.tied) {
                    (Some(output), _) => output.forward(x, ctx),
                    (None, Some(tied)) => tied.forward(x, words, self.bias(), ctx),
                    (None, None) => return None,
                }))
            }
            Task::Bare | Task::Language | Task::Other => None,
        }
    }

    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }

    /// Shows the slot of a tied output.
    pub(super) fn show_tied(&mut self, words: &Embedding, slots: &mut Slots<'_>) {
        let (name, bias) = (self.names.output, self.bias());
        if let Some(tied) = &mut self.tied {
            tied.lend(words, bias, |linear| {
                slots.linear(name, linear);
            });
        }
    }

    /// The tied output where merged adapters made it differ from the word embeddings.
    pub(super) fn diverged(&self, words: &Embedding) -> Option<FrozenBase> {
        self.tied.as_ref()?.diverged(words, self.bias())
    }

    /// The head whose output has a weight of its own: this one, or the word embeddings'.
    pub(super) fn untied(mut self, words: &Embedding, layer: Option<FrozenBase>) -> Self {
        let shared = || FrozenBase::new(words.linear.weight.val().transpose(), self.bias());
        let layer = layer.unwrap_or_else(shared);
        self.output = self.tied.take().map(|tied| tied.untied(layer));
        self.bias = None;
        self
    }
}
