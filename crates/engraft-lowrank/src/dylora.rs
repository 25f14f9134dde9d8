//! DyLoRA: one training run for every rank.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Lookup,
    Method, MethodMeta, Mode, Parts, Result, admit_rank, check_dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::{Init, Key};
use serde::{Deserialize, Serialize};

use crate::lora::Lora;

/// Which columns of A and rows of B a step at rank b updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DyloraUpdate {
    /// The first b.
    #[default]
    Full,
    /// The b-th only: faster, and a little worse in the paper.
    Frozen,
}

/// Configuration of [`Dylora`]. Defaults of the paper: ranks 1 to 8, alpha 16, all of them updated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DyloraConfig {
    /// Largest rank r.
    pub rank: usize,
    /// Smallest rank that is trained for.
    pub min_rank: usize,
    /// alpha.
    pub alpha: f64,
    /// What a step updates.
    pub update: DyloraUpdate,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for DyloraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            min_rank: 1,
            alpha: 16.0,
            update: DyloraUpdate::Full,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + (alpha / b) x A[:, ..b] B[..b, :], with a rank b drawn at each step.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | trained, U(-1/sqrt(d_in), 1/sqrt(d_in)) at first |
/// | B | [r, d_out] | trained, zero at first |
/// | b | | uniform on the smallest to the largest rank, the same for all layers; r in evaluation |
///
/// The columns are sorted by importance through this nested dropout, so that the first b of them are
/// an adapter of rank b: [`Dylora::truncated`].
///
/// Valipour et al., DyLoRA: Parameter Efficient Tuning of Pre-trained Models using Dynamic
/// Search-Free Low-Rank Adaptation, arXiv 2210.07558, section 4 and algorithm 1. As in the authors'
/// code (`dynamic` in loralib/layers.py) the `frozen` update is a matter of the gradient: the first
/// b - 1 columns are constants of it. What an optimizer's momentum and weight decay do to them goes
/// on.
///
/// # Cost
/// A token costs b (d_in + d_out).
#[derive(Module, Debug)]
pub struct Dylora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// alpha.
    pub alpha: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    #[module(skip)]
    min_rank: usize,
    #[module(skip)]
    update: DyloraUpdate,
    /// A and B held constant where a step freezes them, in the surrogate whose derivative the
    /// gradient is.
    held_a: Option<Tensor<2>>,
    held_b: Option<Tensor<2>>,
}

impl Dylora {
    /// The LoRA of the first `rank` columns of A and rows of B.
    ///
    /// # Errors
    /// A rank of 0, or above the largest that was trained.
    pub fn truncated(&self, rank: usize) -> Result<Lora, String> {
        let largest = self.b.dims()[0];
        admit_rank(rank, largest)
            .map_err(|_| format!("rank {rank}: expected 1 to {largest}, the ranks trained for"))?;
        Ok(Lora {
            a: Param::from_tensor(self.a.val().narrow(1, 0, rank).detach()),
            b: Param::from_tensor(self.b.val().narrow(0, 0, rank).detach()),
            c: None,
            scaling: self.alpha / rank as f64,
            dropout: self.dropout,
            tied: false,
        })
    }

    /// The rank of this pass: drawn from (seed, step) in training.
    fn rank(&self, ctx: &Ctx) -> usize {
        let largest = self.b.dims()[0];
        match ctx.mode() {
            Mode::Eval => largest,
            Mode::Train { seed, step } => {
                let key = Key::new(seed).child("dylora rank").child(&step.to_string());
                let ranks = largest + 1 - self.min_rank;
                let drawn = Init::Uniform { bound: 0.5 }.values(1, &key)[0] + 0.5;
                self.min_rank + ((drawn * ranks as f64) as usize).min(ranks - 1)
            }
        }
    }

    /// (alpha / b) A, [d_in, b], and B, [b, d_out], of this pass.
    fn factors(&self, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let rank = self.rank(ctx);
        let (a, b) = (self.a.val(), self.b.val());
        let (a, b) = if self.update == DyloraUpdate::Frozen && ctx.is_training() && rank > 1 {
            let constant = |held: &Option<Tensor<2>>, own: &Tensor<2>, dim| {
                let whole = held.clone().unwrap_or_else(|| own.clone());
                whole.detach().narrow(dim, 0, rank - 1)
            };
            let join = |held, own: Tensor<2>, dim| {
                let last = own.clone().narrow(dim, rank - 1, 1);
                Tensor::cat(vec![constant(held, &own, dim), last], dim)
            };
            (join(&self.held_a, a, 1), join(&self.held_b, b, 0))
        } else {
            (a.narrow(1, 0, rank), b.narrow(0, 0, rank))
        };
        (a * (self.alpha / rank as f64), b)
    }
}

impl Adapter for Dylora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("dylora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(ctx), 1.0))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(ctx), 1.0, self.dropout, ctx)
    }

    /// Gathers rows of A. There is no dropout on indices.
    fn lookup(&self, rows: &Lookup, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let (a, b) = self.factors(ctx);
        base.lookup(rows) + rows.of(a).matmul(b)
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held_a: Some(self.a.val().detach()),
            held_b: Some(self.b.val().detach()),
            ..self.clone()
        }
    }
}

impl Graft for DyloraConfig {
    type Adapter = Dylora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Dylora> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        let uniform = Init::KaimingUniform { fan_in: d_in };
        Ok(Dylora {
            a: Param::from_tensor(ctx.tensor(uniform, [d_in, rank], "a")),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            alpha: self.alpha,
            dropout: self.dropout,
            min_rank: self.min_rank,
            update: self.update,
            held_a: None,
            held_b: None,
        })
    }
}

impl Method for DyloraConfig {
    const META: MethodMeta = MethodMeta {
        gradient: Gradient::Surrogate(
            "with `update = \"frozen\"`, all but the last column of A and row of B in use are constants of the gradient",
        ),
        ..MethodMeta::graft(
            "dylora",
            "DyLoRA",
            Family::Lowrank,
            "2210.07558",
            "y = x W + b + (alpha / b) x A[:, ..b] B[..b, :], b drawn at each step",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        if self.min_rank == 0 || self.min_rank > self.rank {
            return Err(format!(
                "min-rank {}: expected 1 to the rank {}",
                self.min_rank, self.rank
            ));
        }
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 4,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 8,
                min_rank: 2,
                update: DyloraUpdate::Frozen,
                ..small.clone()
            },
            Self {
                min_rank: 4,
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Bank;
    use engraft_linalg::svd;
    use engraft_testkit::compare;

    use super::*;
    use crate::trial;

    fn config(update: DyloraUpdate) -> DyloraConfig {
        DyloraConfig {
            rank: 4,
            min_rank: 2,
            alpha: 3.0,
            update,
            dropout: 0.0,
        }
    }

    fn at(bank: &Bank, step: u64) -> Ctx<'_> {
        Ctx::new(bank, Mode::Train { seed: 5, step })
    }

    #[test]
    fn a_step_at_rank_b_is_the_truncated_adapter() {
        let (base, bank) = (trial::base(9, 7, true), Bank::default());
        let mut seen = [false; 5];
        for update in [DyloraUpdate::Full, DyloraUpdate::Frozen] {
            let dylora = trial::moved(&config(update), &base);
            trial::update(&dylora, &base);
            for step in 0..12 {
                let ctx = at(&bank, step);
                let rank = dylora.rank(&ctx);
                seen[rank] = true;
                let found = dylora.effective(&base, &ctx).unwrap().weight();
                let lora = dylora.truncated(rank).unwrap();
                let expected = lora.effective(&base, &Ctx::default()).unwrap().weight();
                compare::close("W'", &found, &expected, 16).unwrap();
                let values = svd(&trial::update(&lora, &base)).unwrap().s;
                assert!(values[rank - 1] > 1e-6 && values[rank] < 1e-13);
            }
            assert!(dylora.truncated(5).unwrap_err().contains("1 to 4"));
        }
        assert_eq!(seen, [false, false, true, true, true]);
    }

    #[test]
    fn counts_are_those_of_lora() {
        let config = DyloraConfig {
            rank: 32,
            ..DyloraConfig::default()
        };
        // LoRA of rank 32 on q and v of Llama-3.2-3B.
        assert_eq!(
            crate::testing::counts(&config, &crate::testing::llama_3b_qv()).all_trained(),
            9_175_040
        );
    }
}
