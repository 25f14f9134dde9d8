//! aLoRA: LoRA that acts from an invocation sequence on.

use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Error, Family, FrozenBase, Graft, InitContext, LayerKind, LayerShape,
    Method, MethodMeta, Parts, Result, Scaling, Text,
};
use serde::{Deserialize, Serialize};

use crate::lora::{Lora, LoraConfig, LoraInit};

/// Configuration of [`Alora`]. Rank 32, alpha 32 and an invocation that the user chooses; the one
/// of the default is a placeholder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AloraConfig {
    /// Tokens of the invocation sequence.
    pub invocation: Vec<i64>,
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Whether an offset c is trained behind B.
    pub bias: bool,
    /// How A starts.
    pub init: LoraInit,
}

impl Default for AloraConfig {
    fn default() -> Self {
        Self {
            invocation: vec![0],
            rank: 32,
            alpha: 32.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            bias: false,
            init: LoraInit::KaimingUniform,
        }
    }
}

impl AloraConfig {
    fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            scaling: self.scaling,
            dropout: self.dropout,
            bias: self.bias,
            init: self.init,
            ..LoraConfig::default()
        }
    }
}

/// y_t = x_t W + b + m_t s (x_t A B + c), m_t = 1 from the start of the last occurrence of the
/// invocation in the sequence on, 0 before it and where it does not occur.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B, c, s | | those of [`Lora`] |
///
/// Greenewald et al., Activated LoRA: Fine-tuned LLMs for Intrinsics, arXiv 2504.12397, section 3:
/// keys and values before the invocation are the base model's, so that its cache can be reused.
/// The sequences are those of [`Ctx::own_text`]; a model that reads no text computes the base.
/// Positions count from the end, so that tokens in front of the text (trained prompts) are before
/// the invocation. What is added depends on the text, hence no weight form.
#[derive(Module, Debug)]
pub struct Alora {
    /// A, B and c.
    pub lora: Lora,
    /// Tokens of the invocation sequence.
    #[module(skip)]
    pub invocation: Vec<i64>,
}

impl Alora {
    /// Which tokens it acts on, [tokens]; `None` where it acts on none.
    fn active(&self, tokens: usize, ctx: &Ctx) -> Option<Tensor<1, Bool>> {
        let text = ctx.own_text()?;
        let [batch, length] = text.dims();
        if batch == 0 || !tokens.is_multiple_of(batch) || self.invocation.len() > length {
            return None;
        }
        let share = tokens / batch;
        let start = last_start(&text, &self.invocation);
        let positions = Tensor::<1, Int>::arange(0..share as i64, &start.device())
            + (length as i64 - share as i64);
        let active = positions
            .unsqueeze_dim::<2>(0)
            .expand([batch, share])
            .greater_equal(start.expand([batch, share]));
        Some(active.reshape([tokens]))
    }
}

/// Where the sequence last starts in each row, [batch, 1]; the length of the text where it does not.
fn last_start(text: &Text, sequence: &[i64]) -> Tensor<2, Int> {
    let [batch, length] = text.dims();
    let starts = length + 1 - sequence.len();
    let found = sequence.iter().enumerate().map(|(offset, token)| {
        text.ids
            .clone()
            .narrow(1, offset, starts)
            .equal_elem(*token)
            .int()
    });
    let found = found
        .reduce(|all, one| all * one)
        .expect("a sequence is not empty");
    // 1 + start of the last match, 0 without one.
    let positions = Tensor::<1, Int>::arange(1..starts as i64 + 1, &text.ids.device());
    let last = (found * positions.unsqueeze_dim::<2>(0).expand([batch, starts])).max_dim(1);
    let absent = last.clone().equal_elem(0);
    (last - 1).mask_fill(absent, length as i64)
}

impl Adapter for Alora {
    fn effective(&self, _: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        Err(Error::NoWeightForm {
            method: "alora".to_owned(),
            path: ctx.path().to_owned(),
            reason: "it acts from the invocation sequence on only".to_owned(),
        })
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let y = base.forward(x.clone());
        let Some(active) = self.active(x.dims()[0], ctx) else {
            return y;
        };
        let added = self.lora.update(x, base, ctx);
        let base_acts = active.bool_not().unsqueeze_dim::<2>(1).expand(added.dims());
        y + added.mask_fill(base_acts, 0.0)
    }
}

impl Graft for AloraConfig {
    type Adapter = Alora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        match layer.kind {
            LayerKind::Linear => Ok(()),
            kind => Err(format!(
                "found a layer of kind {kind:?}, expected a linear one"
            )),
        }
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        self.lora().count(layer)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Alora> {
        Ok(Alora {
            lora: self.lora().init(base, ctx)?,
            invocation: self.invocation.clone(),
        })
    }
}

impl Method for AloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        mergeable: false,
        admits: "any linear layer of a model of text",
        ..MethodMeta::graft(
            "alora",
            "aLoRA",
            Family::Lowrank,
            "2504.12397",
            "y_t = x_t W + b + m_t s (x_t A B + c), m_t = 1 from the last invocation sequence on",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.invocation.is_empty() {
            return Err("invocation: found no token, expected at least one".to_owned());
        }
        self.lora().validate()
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        // The second of the contract suite's two tokens, and both.
        let invocations = [vec![1], vec![0, 1]].into_iter();
        let with = |(invocation, lora): (Vec<i64>, LoraConfig)| Self {
            invocation,
            rank: lora.rank,
            alpha: lora.alpha,
            scaling: lora.scaling,
            dropout: lora.dropout,
            bias: lora.bias,
            init: lora.init,
        };
        invocations
            .zip(LoraConfig::examples(layer))
            .map(with)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use engraft_core::{Bank, Mode};

    use super::*;
    use crate::testing::{attach, base, largest, normal};

    fn text(rows: &[[i64; 5]]) -> Text {
        let ids: Vec<i64> = rows.iter().flatten().copied().collect();
        let ids = TensorData::new(ids, [rows.len(), 5]);
        Text::new(Tensor::from_data(ids, &Device::default()))
    }

    #[test]
    fn the_last_start_of_a_sequence_is_found() {
        let text = text(&[
            [7, 8, 1, 7, 8],
            [8, 7, 8, 8, 7],
            [1, 2, 3, 4, 5],
            [7, 7, 8, 1, 7],
        ]);
        let found = last_start(&text, &[7, 8]).into_data();
        assert_eq!(
            found.convert::<i64>().try_to_vec::<i64>().unwrap(),
            [3, 1, 5, 1]
        );
    }

    #[test]
    fn only_tokens_from_the_invocation_on_change_also_behind_a_prompt() {
        let config = AloraConfig {
            invocation: vec![7, 8],
            rank: 2,
            bias: true,
            ..AloraConfig::default()
        };
        let base = base([4, 3]);
        let mut adapter = attach(&config, &base);
        adapter.lora.b = burn::module::Param::from_tensor(normal([2, 3], "b"));
        let text = text(&[[7, 8, 7, 8, 1], [1, 2, 3, 4, 5]]);
        let bank = Bank::default();
        let ctx = Ctx::new(&bank, Mode::Eval);
        for lead in [0, 2] {
            let tokens = 5 + lead;
            let x = normal([2 * tokens, 4], "x");
            let y = adapter.forward(x.clone(), &base, &ctx.with_text(&text));
            let lora = adapter.lora.forward(x.clone(), &base, &ctx);
            let frozen = base.forward(x.clone());
            let active = 2 + lead..tokens;
            let before =
                y.clone().narrow(0, 0, active.start) - frozen.clone().narrow(0, 0, active.start);
            assert_eq!(largest(before), 0.0);
            let count = active.len();
            let after =
                y.clone().narrow(0, active.start, count) - lora.narrow(0, active.start, count);
            assert!(largest(after) < 1e-12);
            let other = y.narrow(0, tokens, tokens) - frozen.clone().narrow(0, tokens, tokens);
            assert_eq!(largest(other), 0.0);
            // Without a text, the base.
            assert_eq!(largest(adapter.forward(x, &base, &ctx) - frozen), 0.0);
        }
    }
}
