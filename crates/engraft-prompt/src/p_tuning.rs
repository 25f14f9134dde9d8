//! P-tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Activation, AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta,
    Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape, check_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::encoder::{Lstm, Perceptron};
use crate::tokens::{positive, prepend};

/// What computes the prompt of [`PTuning`] from its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptEncoder {
    /// Three linear layers with ReLU between them.
    #[default]
    Mlp,
    /// A bidirectional LSTM, then two linear layers with ReLU between them.
    Lstm,
    /// Nothing: the table is a finished prompt, as PEFT's files have it.
    None,
}

/// Configuration of [`PTuning`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PTuningConfig {
    /// n.
    pub virtual_tokens: usize,
    /// `mlp`, `lstm` or `none`.
    pub encoder: PromptEncoder,
    /// Width h of the encoder; left out, that of the tokens.
    pub hidden: Option<usize>,
    /// Layers of the LSTM.
    pub layers: usize,
    /// Dropout probability between the layers of the LSTM.
    pub dropout: f64,
}

impl Default for PTuningConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 20,
            encoder: PromptEncoder::Mlp,
            hidden: None,
            layers: 2,
            dropout: 0.0,
        }
    }
}

/// [f(P); E]: tokens that an encoder f computes from a trained table P in front of the embedded
/// ones. f is trained too.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P (`tokens`) | [n, d] | trained, N(0, 1) at first |
/// | `mlp` | d, h, h, d wide; behind an LSTM 2 h, 2 h, d | trained |
/// | `lstm` | h in each direction | trained; only with `encoder = "lstm"` |
///
/// Liu et al., GPT Understands, Too, arXiv 2103.10385, section 3.2, with the encoders of PEFT.
///
/// # Cost
/// n tokens more in every layer, and once per batch the encoder: O(n h (d + h)).
#[derive(Module, Debug)]
pub struct PTuning {
    /// P, [n, d].
    pub tokens: Param<Tensor<2>>,
    /// The LSTM.
    pub lstm: Option<Lstm>,
    /// The linear layers.
    pub mlp: Option<Perceptron>,
}

impl PTuning {
    /// f(P), [n, d].
    pub fn prompt(&self, ctx: &Ctx) -> Tensor<2> {
        let table = self.tokens.val();
        let table = match &self.lstm {
            Some(lstm) => lstm.forward(table, ctx),
            None => table,
        };
        match &self.mlp {
            Some(mlp) => mlp.forward(table),
            None => table,
        }
    }
}

impl SiteAdapter for PTuning {
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        prepend(self.prompt(ctx), tokens)
    }
}

impl PTuningConfig {
    /// Widths of the linear layers for tokens of width `d`; none without an encoder.
    fn widths(&self, d: usize) -> Vec<usize> {
        let h = self.hidden.unwrap_or(d);
        match self.encoder {
            PromptEncoder::Mlp => vec![d, h, h, d],
            PromptEncoder::Lstm => vec![2 * h, 2 * h, d],
            PromptEncoder::None => Vec::new(),
        }
    }
}

impl SiteGraft for PTuningConfig {
    type Adapter = PTuning;

    const SITES: &'static [SiteKind] = &[SiteKind::Prompt];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let d = site.width;
        let lstm = match self.encoder {
            PromptEncoder::Lstm => Lstm::count(d, self.hidden.unwrap_or(d), self.layers),
            _ => 0,
        };
        Counts::trained(self.virtual_tokens * d + lstm + Perceptron::count(&self.widths(d)))
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<PTuning> {
        let d = site.width;
        let table = [self.virtual_tokens, d];
        let lstm = || Lstm::init(d, self.hidden.unwrap_or(d), self.layers, self.dropout, ctx);
        let mlp = || Perceptron::init(&self.widths(d), Activation::Relu, ctx);
        Ok(PTuning {
            tokens: Param::from_tensor(ctx.tensor(Init::Normal { std: 1.0 }, table, "tokens")),
            lstm: (self.encoder == PromptEncoder::Lstm).then(lstm),
            mlp: (self.encoder != PromptEncoder::None).then(mlp),
        })
    }
}

impl Method for PTuningConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("P_TUNING"),
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "the embedded tokens of a text",
        ..MethodMeta::graft(
            "p-tuning",
            "P-tuning",
            Family::Prompt,
            "2103.10385",
            "[f(P); E], f an MLP or LSTM, E the embedded tokens",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        positive("hidden", self.hidden.unwrap_or(1))?;
        positive("layers", self.layers)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            virtual_tokens: 2,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                encoder: PromptEncoder::Lstm,
                hidden: Some(3),
                dropout: 0.2,
                virtual_tokens: 3,
                ..small.clone()
            },
            Self {
                encoder: PromptEncoder::None,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::bridge::values;

    use super::*;
    use crate::testing::{counts, draw};

    #[test]
    fn the_count_is_the_published_one() {
        let count = counts(&PTuningConfig::default(), 28, 3072, 1024);
        assert_eq!(count.trainable, 28_382_208);
    }

    #[test]
    fn an_lstm_reads_each_token_after_the_ones_before_it() {
        let base = FrozenBase::new(draw([4, 4], "w"), None);
        let bank = Bank::default();
        let ctx = InitContext::new(0, "prompt", "default", &base, &bank);
        let lstm = Lstm::init(4, 2, 1, 0.0, &ctx);
        let x = draw([3, 4], "x");
        let y = values(&lstm.forward(x.clone(), &Ctx::default()));
        // The equation, gate by gate.
        let cell = &lstm.forward[0];
        let gates = |token: usize| values(&cell.input.forward(x.clone().narrow(0, token, 1)));
        let (u, c) = (
            values(&cell.state.weight.val()),
            values(&cell.state.bias.val()),
        );
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        let (mut h, mut memory) = ([0.0; 2], [0.0; 2]);
        for token in 0..3 {
            let mut a = gates(token);
            for (index, a) in a.iter_mut().enumerate() {
                *a += c[index] + h[0] * u[index] + h[1] * u[8 + index];
            }
            for unit in 0..2 {
                memory[unit] =
                    sigmoid(a[2 + unit]) * memory[unit] + sigmoid(a[unit]) * a[4 + unit].tanh();
                h[unit] = sigmoid(a[6 + unit]) * memory[unit].tanh();
                assert!((y[token * 4 + unit] - h[unit]).abs() < 1e-12);
            }
        }
        // Turned round, the other direction computes the same.
        let turned = Lstm {
            forward: lstm.backward.clone(),
            backward: lstm.forward.clone(),
            dropout: 0.0,
        };
        let back = values(&turned.forward(x.flip([0]), &Ctx::default()));
        for token in 0..3 {
            assert!((y[token * 4] - back[(2 - token) * 4 + 2]).abs() < 1e-12);
        }
    }
}
