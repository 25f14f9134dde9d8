//! Selective LoRA: each LoRA branch behind a trained on-off indicator.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, Scaling, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// Configuration of [`SelectiveLora`]. Threshold 0.1 and first score 0.15 as in TAPS; rank 8, alpha
/// 16 as LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SelectiveLoraConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Threshold tau: a branch whose score is below it is off.
    pub threshold: f64,
    /// First score.
    pub score: f64,
    /// Weight lambda of |z| in the loss.
    pub penalty: f64,
}

impl Default for SelectiveLoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            threshold: 0.1,
            score: 0.15,
            penalty: 0.01,
        }
    }
}

/// y = x W + b + I(z >= tau) s x A B.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | trained, random and zero at first |
/// | z | `[1]` | trained score of this branch, 0.15 at first |
/// | I | | 1 where the condition holds, else 0; its gradient is taken as that of z |
///
/// Bafghi et al., Fine Tuning without Catastrophic Forgetting via Selective Low Rank Adaptation,
/// arXiv 2501.15377, which puts LoRA in the place of the full update of TAPS (Wallingford et al.,
/// arXiv 2203.16708, section 3): a block is one adapted layer, and the straight-through gradient
/// lets a branch that is off come back. Threshold and first score are those of TAPS; no code of the
/// LoRA version was found. The loss gains lambda |z| for each branch, which is what switches
/// branches off; the papers divide by the number of branches, so that lambda here is theirs over
/// that number, and tune it. The activation form costs LoRA's, and nothing beyond the base where
/// the branch is merged while off.
#[derive(Module, Debug)]
pub struct SelectiveLora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// z, `[1]`.
    pub score: Param<Tensor<1>>,
    /// tau.
    pub threshold: f64,
    /// lambda.
    pub penalty: f64,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    /// I and z held constant, in the surrogate whose derivative the gradient is.
    held: Option<(Tensor<1>, Tensor<1>)>,
}

impl SelectiveLora {
    /// I, `[1]`, without a gradient.
    fn step(&self) -> Tensor<1> {
        let score = self.score.val().detach();
        let open = score.clone().greater_equal_elem(self.threshold);
        score.zeros_like().mask_fill(open, 1.0)
    }

    /// I, `[1]`, with the gradient of z.
    pub fn indicator(&self) -> Tensor<1> {
        let score = self.score.val();
        match &self.held {
            Some((step, held)) => step.clone() + (score - held.clone()),
            None => self.step() + (score.clone() - score.detach()),
        }
    }

    /// I A, [d_in, r], and B, [r, d_out].
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let gate = self.indicator().unsqueeze::<2>();
        (self.a.val() * gate, self.b.val())
    }
}

impl Adapter for SelectiveLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("selective-lora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(), self.scaling))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(), self.scaling, self.dropout, ctx)
    }

    fn penalty(&self, _: &FrozenBase, _: &Ctx) -> Option<Tensor<1>> {
        Some(self.score.val().abs() * self.penalty)
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held: Some((self.step(), self.score.val().detach())),
            ..self.clone()
        }
    }
}

impl Graft for SelectiveLoraConfig {
    type Adapter = SelectiveLora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out) + 1)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<SelectiveLora> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        Ok(SelectiveLora {
            a: Param::from_tensor(ctx.tensor(
                Init::KaimingUniform { fan_in: d_in },
                [d_in, rank],
                "a",
            )),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            score: Param::from_tensor(ctx.tensor(Init::Constant(self.score), [1], "score")),
            threshold: self.threshold,
            penalty: self.penalty,
            scaling: self.scaling.factor(self.alpha, rank),
            dropout: self.dropout,
            held: None,
        })
    }
}

impl Method for SelectiveLoraConfig {
    const META: MethodMeta = MethodMeta {
        regularised: true,
        gradient: Gradient::Surrogate("the indicator I(z >= tau) has the gradient of z"),
        ..MethodMeta::graft(
            "selective-lora",
            "Selective LoRA",
            Family::Lowrank,
            "2501.15377",
            "y = x W + b + I(z >= tau) s x A B",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        let numbers = [self.threshold, self.score, self.penalty];
        if numbers.iter().all(|number| number.is_finite()) {
            Ok(())
        } else {
            Err(format!(
                "threshold, score and penalty {numbers:?}: expected finite numbers"
            ))
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            // The contract moves the score by about 0.1: on, off, and either.
            Self {
                score: 2.0,
                ..small.clone()
            },
            Self {
                score: -2.0,
                scaling: Scaling::RankStabilised,
                ..small.clone()
            },
            Self {
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, forms_differ, largest, normal};

    #[test]
    fn a_branch_below_the_threshold_is_exactly_off_and_still_learns() {
        let base = base([6, 4]);
        for (score, open) in [(0.15, true), (0.1, true), (0.099, false), (-3.0, false)] {
            let config = SelectiveLoraConfig {
                score,
                ..SelectiveLoraConfig::default()
            };
            let mut adapter = attach(&config, &base);
            adapter.b = Param::from_tensor(normal([8, 4], "b0"));
            let layer = adapter.effective(&base, &Ctx::default()).unwrap();
            assert_eq!(largest(layer.weight() - base.weight()) > 0.0, open);
            assert_eq!(
                bridge::values(&adapter.indicator()),
                [f64::from(u8::from(open))]
            );
            assert!(forms_differ(&adapter, &base) < 1e-12);

            let tracked = adapter.train();
            let grads = tracked.indicator().sum().backward();
            let gradient = tracked.score.val().grad(&grads).unwrap();
            assert_eq!(bridge::values(&gradient), [1.0]);
        }
    }
}
