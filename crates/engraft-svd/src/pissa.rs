//! PiSSA: principal singular values and vectors adaptation.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Parts, Result,
    Scaling, admit_rank,
};
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};
use crate::spectrum::leading;

/// PiSSA: the r largest singular triples are trained and the residual is frozen,
/// y = x (W - s A0 B0) + b + s x A B with W ~ U S V^T, A0 = U_r (S_r / s)^1/2 and
/// B0 = (S_r / s)^1/2 V_r^T.
///
/// Meng et al., PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language
/// Models, arXiv 2404.02948, section 3. Its adapter is a [`ResidualLora`]. Paper defaults: rank
/// 128, alpha = rank, no dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PissaConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Power iterations of the randomised SVD; 0 for the exact one. The test matrix has r + 10
    /// columns (PEFT's `pissa_niter_n` takes r, which is less accurate at the same cost).
    pub niter: usize,
}

impl Default for PissaConfig {
    fn default() -> Self {
        Self {
            rank: 128,
            alpha: None,
            scaling: Scaling::Classic,
            dropout: 0.0,
            niter: 0,
        }
    }
}

impl Graft for PissaConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        residual_lora::count(self.rank, layer)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        let principal = leading(base, self.rank, self.niter, ctx)?;
        let scaling = residual_lora::scaling(self.scaling, self.alpha, self.rank);
        ResidualLora::from_triples(Self::META.id, &principal, scaling, self.dropout, ctx)
    }
}

impl Method for PissaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "pissa",
            "PiSSA",
            Family::Svd,
            "2404.02948",
            "y = x (W - s A0 B0) + b + s x A B, s A0 B0 = U_r S_r V_r^T",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        residual_lora::validate(self.rank, self.alpha, self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let rank = layer.max_rank().min(3);
        let small = Self {
            rank,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                alpha: Some(5.0),
                scaling: Scaling::RankStabilised,
                niter: 2,
                ..small.clone()
            },
            Self {
                rank: layer.max_rank(),
                alpha: Some(1.0),
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Adapter;
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base};

    #[test]
    fn the_residual_has_the_remaining_singular_values() {
        let base = base([12, 7]);
        let adapter = attach(
            &PissaConfig {
                rank: 3,
                alpha: Some(6.0),
                ..PissaConfig::default()
            },
            &base,
        );
        let residual = adapter.rebase(&base).unwrap();
        let all = engraft_linalg::svd(&bridge::to_matrix(&base.weight()))
            .unwrap()
            .s;
        let rest = engraft_linalg::svd(&bridge::to_matrix(&residual.weight()))
            .unwrap()
            .s;
        for (expected, found) in all[3..].iter().chain(&[0.0; 3]).zip(&rest) {
            assert!(
                (expected - found).abs() < 1e-12 * all[0],
                "{expected} {found}"
            );
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // LLaMA-2-7B, rank 128, all seven linear layers: 320M trained.
        let pissa = PissaConfig::default();
        let of = |d_in, d_out| {
            pissa
                .count(&LayerShape::linear("fc", d_in, d_out, false))
                .trainable
        };
        assert_eq!(
            32 * (4 * of(4096, 4096) + 2 * of(4096, 11008) + of(11008, 4096)),
            319_815_680
        );
        assert!(
            pissa
                .admits(&LayerShape::linear("fc", 200, 100, false))
                .unwrap_err()
                .contains("at most min(d_in, d_out) = 100")
        );
    }
}
