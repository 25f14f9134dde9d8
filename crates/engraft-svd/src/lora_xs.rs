//! LoRA-XS: a small trained matrix between frozen singular vectors.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, Scaling, admit_rank, check_dropout, dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::spectrum::{frozen, leading, tensor};

/// Standard deviation of the first R: small enough not to matter, and not zero, so that no
/// direction of R starts at a saddle.
const R_STD: f64 = 1e-5;

/// Configuration of [`LoraXs`]. Paper defaults: rank 16 of 4 to 25 (GLUE), alpha = rank, no dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoraXsConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Power iterations of the randomised SVD; 0 for the exact one. The authors take 10.
    pub niter: usize,
}

impl Default for LoraXsConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: None,
            scaling: Scaling::Classic,
            dropout: 0.0,
            niter: 0,
        }
    }
}

/// y = x W + b + s x A R B, with W ~ U S V^T, A = U_r S_r and B = V_r^T.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | frozen, in the adapter file |
/// | R | [r, r] | trained, N(0, 1e-10) at first |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Bałazy et al., LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters, arXiv
/// 2405.17604, section 3. The singular values sit on the input side as in the authors' code; the
/// paper's text puts them on the output side. The trained count r^2 does not depend on the layer.
/// The activation form costs O(tokens (d_in d_out + r (d_in + d_out + r))).
#[derive(Module, Debug)]
pub struct LoraXs {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// R, [r, r].
    pub r: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
}

impl Adapter for LoraXs {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("lora-xs", self.dropout, ctx)?;
        let update = self
            .a
            .val()
            .matmul(self.r.val() * self.scaling)
            .matmul(self.b.val());
        Ok(base.with_weight(base.weight() + update))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.a.val());
        base.forward(x)
            + narrow
                .matmul(self.r.val() * self.scaling)
                .matmul(self.b.val())
    }
}

impl Graft for LoraXsConfig {
    type Adapter = LoraXs;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::with_frozen(
            self.rank * self.rank,
            self.rank * (layer.d_in + layer.d_out),
        )
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<LoraXs> {
        let leading = leading(base, self.rank, self.niter, ctx)?;
        let a = leading
            .u
            .scale_columns(&leading.s)
            .map_err(|error| ctx.numeric(error))?;
        Ok(LoraXs {
            a: frozen(tensor(&a, ctx)),
            r: Param::from_tensor(ctx.tensor(
                Init::Normal { std: R_STD },
                [self.rank, self.rank],
                "r",
            )),
            b: frozen(tensor(&leading.vt, ctx)),
            scaling: self
                .scaling
                .factor(self.alpha.unwrap_or(self.rank as f64), self.rank),
            dropout: self.dropout,
        })
    }
}

impl Method for LoraXsConfig {
    const META: MethodMeta = MethodMeta {
        at_init: AtInit::Bounded(1e-3),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "lora-xs",
            "LoRA-XS",
            Family::Svd,
            "2405.17604",
            "y = x W + b + s x A R B, A = U_r S_r, B = V_r^T",
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
                alpha: Some(5.0),
                scaling: Scaling::RankStabilised,
                niter: 2,
                ..small.clone()
            },
            Self {
                rank: layer.max_rank(),
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::{Key, bridge};

    use super::*;

    #[test]
    fn with_the_identity_between_them_the_factors_are_the_best_approximation() {
        let weight =
            Init::Normal { std: 1.0 }.tensor([6, 9], &Key::new(2), &Device::default(), DType::F64);
        let base = FrozenBase::new(weight, None);
        let config = LoraXsConfig {
            rank: 6,
            alpha: Some(6.0),
            ..LoraXsConfig::default()
        };
        let adapter = config
            .init(
                &base,
                &InitContext::new(0, "fc", "default", &base, &Bank::default()),
            )
            .unwrap();
        let rebuilt = adapter.a.val().matmul(adapter.b.val());
        let error = bridge::to_matrix(&(base.weight() - rebuilt)).max_abs();
        assert!(error < 1e-12, "{error:e}");
        // B has orthonormal rows, so the singular values are all on the input side.
        let gram = bridge::to_matrix(&adapter.b.val().matmul(adapter.b.val().transpose()));
        assert!(
            gram.max_abs_diff(&engraft_linalg::Matrix::identity(6))
                .unwrap()
                < 1e-13
        );
    }

    #[test]
    fn counts_are_the_published_ones() {
        let layer = LayerShape::linear("fc", 1024, 1024, true);
        // RoBERTa-large: query, value, attention output and feed-forward output of 24 layers.
        for (rank, published) in [
            (4, 1_536),
            (8, 6_144),
            (12, 13_824),
            (16, 24_576),
            (20, 38_400),
            (25, 60_000),
        ] {
            let config = LoraXsConfig {
                rank,
                ..LoraXsConfig::default()
            };
            assert_eq!(24 * 4 * config.count(&layer).trainable, published);
        }
        // Seven linear layers of Mistral-7B and Gemma-7B blocks, LLaMA-3.2-3B, and the six of
        // DeBERTaV3-base blocks.
        for (rank, layers, published) in [
            (16, 32 * 7, 57_344),
            (64, 32 * 7, 917_504),
            (16, 28 * 7, 50_176),
            (32, 28 * 7, 200_704),
            (64, 28 * 7, 802_816),
            (248, 28 * 7, 12_054_784),
            (136, 12 * 6, 1_331_712),
        ] {
            let config = LoraXsConfig {
                rank,
                ..LoraXsConfig::default()
            };
            assert_eq!(layers * config.count(&layer).trainable, published);
        }
    }
}
