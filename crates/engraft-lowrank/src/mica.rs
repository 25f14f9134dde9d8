//! MiCA: minor component adaptation.

use burn::module::Param;
use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Parts, Result,
    Scaling, admit_rank, check_dropout, positive_rank,
};
use engraft_linalg::{Matrix, svd};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::lora::Lora;

/// MiCA: y = x W + b + s x A B, where the rows of B are the output-side singular vectors of W with
/// the smallest singular values, frozen.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | trained, zero at first |
/// | B | [r, d_out] | frozen, the last r rows of V^T in W = U S V^T; in the adapter file |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Minor Component Adaptation, arXiv 2604.01694, as PEFT's `mica_init` computes it: of the thin
/// SVD, k = min(d_in, d_out) triples in falling order, the last r are taken, so that directions
/// which W does not reach at all (d_out > d_in) are not used. W itself stays. The adapter is a
/// [`Lora`]; its update leaves the span of B's rows never, whatever is trained.
///
/// Defaults: rank 8, alpha 16, no dropout, as LoRA; the paper's own were not at hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MicaConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
}

impl Default for MicaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
        }
    }
}

impl Graft for MicaConfig {
    type Adapter = Lora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::with_frozen(self.rank * layer.d_in, self.rank * layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Lora> {
        let vt = svd(&bridge::to_matrix(&base.weight()))
            .map_err(|error| ctx.numeric(error))?
            .vt;
        let first = vt.rows() - self.rank;
        let minor = Matrix::from_fn(self.rank, vt.cols(), |i, j| vt.get(first + i, j));
        let b = bridge::from_matrix(&minor, &ctx.device, ctx.dtype);
        Ok(Lora {
            a: Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_in(), self.rank], "a")),
            b: Param::from_tensor(b).set_require_grad(false),
            c: None,
            scaling: self.scaling.factor(self.alpha, self.rank),
            dropout: self.dropout,
            tied: false,
        })
    }
}

impl Method for MicaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "mica",
            "MiCA",
            Family::Lowrank,
            "2604.01694",
            "y = x W + b + s x A B, B = the last r rows of V^T in W = U S V^T",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)
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
                alpha: 2.0,
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attach, base, largest};

    #[test]
    fn b_spans_the_directions_that_the_weight_reaches_least() {
        for shape in [[12, 7], [7, 12]] {
            let base = base(shape);
            let config = MicaConfig {
                rank: 3,
                ..MicaConfig::default()
            };
            let b = attach(&config, &base).b.val();
            let gram = bridge::to_matrix(&b.clone().matmul(b.clone().transpose()));
            assert!(gram.max_abs_diff(&Matrix::identity(3)).unwrap() < 1e-13);
            // |W v| is the singular value of v.
            let s = svd(&bridge::to_matrix(&base.weight())).unwrap().s;
            let reached = base.weight().matmul(b.transpose());
            let norms = (reached.clone() * reached).sum_dim(0).sqrt();
            for (found, expected) in bridge::values(&norms).iter().zip(&s[4..]) {
                assert!((found - expected).abs() < 1e-12 * s[0]);
            }
        }
    }

    #[test]
    fn it_starts_at_the_base_and_counts_a_alone() {
        let adapter = attach(
            &MicaConfig {
                rank: 2,
                ..MicaConfig::default()
            },
            &base([5, 4]),
        );
        assert_eq!(largest(adapter.a.val()), 0.0);
        // Llama-3.2-3B, rank 32 on q and v: 5,505,024 trained (PEFT's MetaMathQA benchmark).
        let config = MicaConfig {
            rank: 32,
            ..MicaConfig::default()
        };
        let trained = |d_out| {
            let layer = LayerShape::linear("fc", 3072, d_out, false);
            config.count(&layer).trainable
        };
        assert_eq!(28 * (trained(3072) + trained(1024)), 5_505_024);
    }
}
