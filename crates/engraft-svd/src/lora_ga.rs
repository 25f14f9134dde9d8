//! LoRA-GA: the start follows the gradient of full fine-tuning.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Needs, Parts,
    Result, Scaling, admit_rank,
};
use engraft_linalg::LinalgError;
use engraft_tensor::bridge;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};
use crate::spectrum::{leading, leading_of};

/// Which of the 2r leading singular triples of the gradient A and B start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LoraGaDirection {
    /// A from the 2nd, 4th, ..., B from the 1st, 3rd, ....
    ArBr,
    /// A from the second r, B from the first r.
    A2rBr,
    /// A from the first r, B from the second r.
    #[default]
    ArB2r,
    /// Both from the same r, drawn at random.
    #[serde(rename = "random")]
    Random,
}

impl LoraGaDirection {
    /// The triples of A and of B.
    fn triples(self, rank: usize, ctx: &InitContext) -> (Vec<usize>, Vec<usize>) {
        let (first, second) = ((0..rank).collect(), (rank..2 * rank).collect());
        match self {
            Self::ArBr => (
                (0..rank).map(|i| 2 * i + 1).collect(),
                (0..rank).map(|i| 2 * i).collect(),
            ),
            Self::A2rBr => (second, first),
            Self::ArB2r => (first, second),
            Self::Random => {
                let drawn = sample(&mut ctx.key.child("direction").rng(), 2 * rank, rank);
                let drawn: Vec<usize> = drawn.into_iter().collect();
                (drawn.clone(), drawn)
            }
        }
    }
}

/// How large the start is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoraGaScale {
    /// B times d_out^1/4 / gamma^1/2.
    Stable {
        /// gamma.
        gamma: f64,
    },
    /// B times the largest singular value of W over that of B's first triple.
    WeightSvd,
    /// A and B divided by s.
    GdScale,
    /// As they are.
    Unit,
}

/// LoRA-GA: y = x (W - s A0 B0) + b + s x A B with A0 from the left and B0 from the right singular
/// vectors of the gradient G = U S V^T of the loss with respect to W.
///
/// Wang et al., LoRA-GA: Low-Rank Adaptation with Gradient Approximation, arXiv 2407.05000,
/// sections 3.2 and 3.3. PEFT 0.21.2 is followed: B0 = S_r V_r^T keeps the singular values of the mean gradient of
/// the batches (the authors drop them), and both factors are scaled as [`LoraGaScale`] says. PEFT's
/// randomised SVD draws from PyTorch's generator; exact here, or randomised from the layer's own
/// stream. Its adapter is a [`ResidualLora`]. Defaults: rank 8, alpha 16, A from the first and B
/// from the second r triples, stable with gamma 16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoraGaConfig {
    /// Rank r, at most half of min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in the authors' runs.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Which triples A and B start from.
    pub direction: LoraGaDirection,
    /// How large the start is.
    pub scale: LoraGaScale,
    /// Power iterations of the randomised SVD; 0 for the exact one.
    pub niter: usize,
}

impl Default for LoraGaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: Some(16.0),
            scaling: Scaling::Classic,
            dropout: 0.0,
            direction: LoraGaDirection::ArB2r,
            scale: LoraGaScale::Stable { gamma: 16.0 },
            niter: 0,
        }
    }
}

impl Graft for LoraGaConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())?;
        if 2 * self.rank > layer.max_rank() {
            return Err(format!(
                "rank {}: the gradient has to have 2 r singular values; expected at most half of min(d_in, d_out) = {}",
                self.rank,
                layer.max_rank()
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        residual_lora::count(self.rank, layer)
    }

    fn needs(&self) -> Needs {
        Needs {
            gradient: true,
            ..Needs::default()
        }
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        let statistics = ctx.statistics()?;
        let Some(gradient) = &statistics.gradient else {
            return Err(ctx.numeric("the calibration has no gradient of the weight"));
        };
        let mean = bridge::to_matrix(gradient).scale(1.0 / statistics.batches.max(1) as f64);
        let triples = leading_of(&mean, 2 * self.rank, self.niter, ctx)?;
        let (of_a, of_b) = self.direction.triples(self.rank, ctx);
        let scaling = self
            .scaling
            .factor(self.alpha.unwrap_or(self.rank as f64), self.rank);
        let values: Vec<f64> = of_b.iter().map(|i| triples.s[*i]).collect();
        let (by_a, by_b) = match self.scale {
            LoraGaScale::Stable { gamma } => (1.0, (base.d_out() as f64).powf(0.25) / gamma.sqrt()),
            LoraGaScale::WeightSvd if values[0] > 0.0 => {
                (1.0, leading(base, 1, self.niter, ctx)?.s[0] / values[0])
            }
            LoraGaScale::GdScale => (1.0 / scaling, 1.0 / scaling),
            LoraGaScale::WeightSvd | LoraGaScale::Unit => (1.0, 1.0),
        };
        let rows = |matrix: &engraft_linalg::Matrix, of: &[usize]| {
            engraft_linalg::Matrix::from_fn(of.len(), matrix.cols(), |i, j| matrix.get(of[i], j))
        };
        let a0 = rows(&triples.u.transpose(), &of_a).transpose().scale(by_a);
        let b0 = rows(&triples.vt, &of_b)
            .scale_rows(&values)
            .map_err(|error: LinalgError| ctx.numeric(error))?
            .scale(by_b);
        let id = Self::META.id;
        Ok(ResidualLora::new(id, &a0, &b0, scaling, self.dropout, ctx))
    }
}

impl Method for LoraGaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with min(d_in, d_out) of at least twice the rank",
        ..MethodMeta::graft(
            "lora-ga",
            "LoRA-GA",
            Family::Svd,
            "2407.05000",
            "y = x (W - s A0 B0) + b + s x A B, A0 and B0 from singular vectors of dL/dW",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        residual_lora::validate(self.rank, self.alpha, self.dropout)?;
        match self.scale {
            LoraGaScale::Stable { gamma } if !(gamma.is_finite() && gamma > 0.0) => {
                Err(format!("gamma {gamma}: expected a positive number"))
            }
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let rank = (layer.max_rank() / 2).min(3);
        if rank == 0 {
            return Vec::new();
        }
        let with = |direction, scale| Self {
            rank,
            direction,
            scale,
            ..Self::default()
        };
        vec![
            with(LoraGaDirection::ArB2r, LoraGaScale::Stable { gamma: 16.0 }),
            with(LoraGaDirection::ArBr, LoraGaScale::GdScale),
            Self {
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
                ..with(LoraGaDirection::A2rBr, LoraGaScale::WeightSvd)
            },
            with(LoraGaDirection::Random, LoraGaScale::Unit),
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Adapter;

    use super::*;
    use crate::testing::{base, calibrated, draw, forms_differ, largest};

    #[test]
    fn the_factors_lie_along_the_gradient_and_start_at_the_pretrained_weight() {
        let base = base([10, 8]);
        let gradient = draw([10, 8], "gradient");
        let config = LoraGaConfig {
            rank: 4,
            ..LoraGaConfig::default()
        };
        let adapter = calibrated(&config, &base, &[], Some(&gradient));
        let whole = adapter
            .effective(
                &adapter.rebase(&base).unwrap(),
                &engraft_core::Ctx::default(),
            )
            .unwrap();
        assert!(largest(whole.weight() - base.weight()) < 1e-12);
        assert!(forms_differ(&adapter, &base) < 1e-12);
        // A and B from different triples are orthogonal to each other through the gradient.
        let through = adapter
            .a
            .val()
            .transpose()
            .matmul(gradient)
            .matmul(adapter.b.val().transpose());
        assert!(largest(through) < 1e-10);
    }

    #[test]
    fn the_weights_own_scale_is_that_of_its_largest_singular_value() {
        let base = base([6, 9]);
        let config = LoraGaConfig {
            rank: 2,
            direction: LoraGaDirection::A2rBr,
            scale: LoraGaScale::WeightSvd,
            ..LoraGaConfig::default()
        };
        let adapter = calibrated(&config, &base, &[], Some(&draw([6, 9], "gradient")));
        let norm = |matrix| engraft_linalg::svd(&matrix).unwrap().s[0];
        let (b, w) = (
            norm(bridge::to_matrix(&adapter.b.val())),
            norm(bridge::to_matrix(&base.weight())),
        );
        assert!((b - w).abs() < 1e-12 * w);
    }
}
