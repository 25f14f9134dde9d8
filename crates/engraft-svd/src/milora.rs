//! MiLoRA: the minor singular components are trained.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Parts, Result,
    Scaling, admit_rank,
};
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};
use crate::spectrum::trailing;

/// MiLoRA: the r smallest singular triples are trained and the principal part is frozen,
/// y = x (W - s A0 B0) + b + s x A B with W = U S V^T, A0 = U_m (S_m / s)^1/2 and
/// B0 = (S_m / s)^1/2 V_m^T over the last r triples m.
///
/// Wang et al., MiLoRA: Harnessing Minor Singular Components for Parameter-Efficient LLM
/// Finetuning, arXiv 2406.09044, section 3. URAE (arXiv 2503.16322), which tunes the smallest
/// singular components of a diffusion transformer for high resolutions, trains the same split; it
/// is this method with the rank it states. The decomposition is exact: randomised ones find the
/// other end of the spectrum. Its adapter is a [`ResidualLora`].
///
/// Rank 32 as in the paper's commonsense runs; alpha is the rank if left out, so that s = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MiloraConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
}

impl Default for MiloraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            alpha: None,
            scaling: Scaling::Classic,
            dropout: 0.0,
        }
    }
}

impl Graft for MiloraConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        residual_lora::count(self.rank, layer)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        let minor = trailing(base, self.rank, ctx)?;
        let scaling = residual_lora::scaling(self.scaling, self.alpha, self.rank);
        ResidualLora::from_triples(Self::META.id, &minor, scaling, self.dropout, ctx)
    }
}

impl Method for MiloraConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "milora",
            "MiLoRA",
            Family::Svd,
            "2406.09044",
            "y = x (W - s A0 B0) + b + s x A B, s A0 B0 = U_m S_m V_m^T, the r smallest",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        residual_lora::validate(self.rank, self.alpha, self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: layer.max_rank().min(3),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: layer.max_rank(),
                alpha: Some(5.0),
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Adapter;
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, forms_differ};

    #[test]
    fn the_residual_is_the_best_approximation_of_the_remaining_rank() {
        let base = base([12, 7]);
        let adapter = attach(
            &MiloraConfig {
                rank: 3,
                alpha: Some(6.0),
                ..MiloraConfig::default()
            },
            &base,
        );
        let kept = adapter.rebase(&base).unwrap();
        let best = engraft_linalg::svd(&bridge::to_matrix(&base.weight()))
            .and_then(|all| all.truncated(4)?.reconstruct())
            .unwrap();
        let error = bridge::to_matrix(&kept.weight())
            .max_abs_diff(&best)
            .unwrap();
        assert!(error < 1e-12, "{error:e}");
        assert!(forms_differ(&adapter, &base) < 1e-12);
    }
}
