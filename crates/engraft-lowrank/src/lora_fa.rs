//! LoRA-FA: LoRA with one factor random and frozen.

use burn::module::Param;
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Parts, Result,
    Scaling, check_dropout, positive_rank,
};
use engraft_linalg::{Matrix, qr};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::lora::Lora;

/// The factor that keeps its random start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenFactor {
    /// A; B is trained from zero. The better choice in 2402.16842.
    #[default]
    A,
    /// B; A is trained from zero.
    B,
}

/// How the frozen factor is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenInit {
    /// U(-1/sqrt(n), 1/sqrt(n)) with n the inputs of the factor, as LoRA's A.
    #[default]
    KaimingUniform,
    /// N(0, 1/r^2).
    Gaussian,
    /// Orthonormal columns (rows, where there are more columns), uniformly distributed.
    Orthogonal,
}

impl FrozenInit {
    fn draw(self, [rows, cols]: [usize; 2], rank: usize, ctx: &InitContext) -> Result<Tensor<2>> {
        let init = match self {
            Self::KaimingUniform => Init::KaimingUniform { fan_in: rows },
            Self::Gaussian => Init::Normal {
                std: 1.0 / rank as f64,
            },
            Self::Orthogonal => {
                let (long, short) = (rows.max(cols), rows.min(cols));
                let draws =
                    Init::Normal { std: 1.0 }.values(long * short, &ctx.key.child("frozen"));
                let q = Matrix::from_vec(long, short, draws)
                    .and_then(|gaussian| qr(&gaussian))
                    .map_err(|error| ctx.numeric(error))?
                    .q;
                let q = if rows < cols { q.transpose() } else { q };
                return Ok(bridge::from_matrix(&q, &ctx.device, ctx.dtype));
            }
        };
        Ok(ctx.tensor(init, [rows, cols], "frozen"))
    }
}

/// LoRA-FA: y = x W + b + s x A B with A random and frozen and B trained from zero, or the other
/// way round.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | frozen, random; in the adapter file |
/// | B | [r, d_out] | trained, zero at first |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Zhang et al., LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning,
/// arXiv 2308.03303, section 3: with A frozen only x A, [tokens, r], is kept for the backward pass.
/// Zhu et al., Asymmetry in Low-Rank Adapters of Foundation Models, arXiv 2402.16842, section 4,
/// compare both sides and find a frozen, preferably orthogonal A as good as a trained one. PEFT has
/// LoRA-FA as an optimizer that also turns B's gradient by (A^T A)^-1; here it is the frozen factor
/// alone, and its file is a plain LoRA of PEFT. The adapter is a [`Lora`]; the activation form
/// costs what LoRA's does.
///
/// Defaults: rank 8, alpha 16, no dropout, as LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoraFaConfig {
    /// Rank r; at most the outer width of the frozen factor where it is orthogonal.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Which factor is frozen.
    pub frozen: FrozenFactor,
    /// How it is drawn.
    pub init: FrozenInit,
}

impl Default for LoraFaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            frozen: FrozenFactor::A,
            init: FrozenInit::KaimingUniform,
        }
    }
}

impl Graft for LoraFaConfig {
    type Adapter = Lora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let (a, b) = (self.rank * layer.d_in, self.rank * layer.d_out);
        match self.frozen {
            FrozenFactor::A => Counts::with_frozen(b, a),
            FrozenFactor::B => Counts::with_frozen(a, b),
        }
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Lora> {
        let (a, b) = ([base.d_in(), self.rank], [self.rank, base.d_out()]);
        let frozen = |shape| {
            let drawn = self.init.draw(shape, self.rank, ctx)?;
            Ok(Param::from_tensor(drawn).set_require_grad(false))
        };
        let trained = |shape| Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "trained"));
        let (a, b) = match self.frozen {
            FrozenFactor::A => (frozen(a)?, trained(b)),
            FrozenFactor::B => (trained(a), frozen(b)?),
        };
        Ok(Lora {
            a,
            b,
            c: None,
            scaling: self.scaling.factor(self.alpha, self.rank),
            dropout: self.dropout,
            tied: false,
        })
    }
}

impl Method for LoraFaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        ..MethodMeta::graft(
            "lora-fa",
            "LoRA-FA",
            Family::Lowrank,
            "2308.03303",
            "y = x W + b + s x A B, one of A and B random and frozen",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                frozen: FrozenFactor::B,
                init: FrozenInit::Gaussian,
                scaling: Scaling::RankStabilised,
                ..small.clone()
            },
            Self {
                init: FrozenInit::Orthogonal,
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attach, base};

    #[test]
    fn an_orthogonal_factor_has_orthonormal_columns_or_rows() {
        let base = base([7, 5]);
        for (frozen, rank) in [
            (FrozenFactor::A, 3),
            (FrozenFactor::A, 9),
            (FrozenFactor::B, 4),
        ] {
            let config = LoraFaConfig {
                rank,
                frozen,
                init: FrozenInit::Orthogonal,
                ..LoraFaConfig::default()
            };
            let adapter = attach(&config, &base);
            let drawn = match frozen {
                FrozenFactor::A => bridge::to_matrix(&adapter.a.val()),
                FrozenFactor::B => bridge::to_matrix(&adapter.b.val()),
            };
            let tall = if drawn.rows() < drawn.cols() {
                drawn.transpose()
            } else {
                drawn
            };
            let gram = tall.transpose_matmul(&tall).unwrap();
            let error = gram.max_abs_diff(&Matrix::identity(tall.cols())).unwrap();
            assert!(error < 1e-13, "{frozen:?} {rank}: {error:e}");
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // Llama-3.2-3B, rank 32 on q and v: 3,670,016 trained (PEFT's MetaMathQA benchmark).
        let config = LoraFaConfig {
            rank: 32,
            ..LoraFaConfig::default()
        };
        let trained = |d_out| {
            let layer = LayerShape::linear("fc", 3072, d_out, false);
            config.count(&layer).trainable
        };
        assert_eq!(28 * (trained(3072) + trained(1024)), 3_670_016);
    }
}
