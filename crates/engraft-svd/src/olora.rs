//! OLoRA: LoRA from the QR decomposition of the weight.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Parts, Result,
    Scaling, admit_rank,
};
use engraft_linalg::{Operator, qr};
use engraft_tensor::bridge;
use engraft_tensor::host::HostMatrix;
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};

/// OLoRA: y = x (W - s A0 B0) + b + s x A B with W^T = Q R, A0 = (R_r)^T the first r rows of R and
/// B0 = (Q_r)^T the first r columns of Q, [d_in, r] and [r, d_out].
///
/// Büyükakyüz, OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, arXiv 2406.01775,
/// section 3. B starts with orthonormal rows; A keeps the scale of W, and s multiplies both the
/// start and what is subtracted from W, as in PEFT's `olora_init`. QR is taken of the weight as
/// outputs times inputs, the side on which Q lies in the paper; the diagonal of R is non-negative
/// here, which fixes the signs that LAPACK leaves open. Its adapter is a [`ResidualLora`].
///
/// The paper tunes with rank 32 and 64; alpha is the rank if left out, so that s = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OloraConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
}

impl Default for OloraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            alpha: None,
            scaling: Scaling::Classic,
            dropout: 0.0,
        }
    }
}

impl Graft for OloraConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        residual_lora::count(self.rank, layer)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        // The first r columns of Q and rows of R need only the first r columns of W^T: Q_r R_rr is
        // their decomposition, and R_r = Q_r^T W^T.
        let numeric = |error| ctx.numeric(error);
        let first = base.weight().narrow(0, 0, self.rank);
        let first = qr(&bridge::to_matrix(&first).transpose()).map_err(numeric)?;
        let mut a0 = HostMatrix::new(&base.weight()).times(&first.q);
        a0.check_finite("qr").map_err(numeric)?;
        for i in 0..self.rank {
            // R is triangular.
            (0..self.rank).for_each(|j| a0.set(i, j, first.r.get(j, i)));
        }
        let b0 = first.q.transpose();
        let scaling = residual_lora::scaling(self.scaling, self.alpha, self.rank);
        Ok(ResidualLora::new(
            Self::META.id,
            &a0,
            &b0,
            scaling,
            self.dropout,
            ctx,
        ))
    }
}

impl Method for OloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "olora",
            "OLoRA",
            Family::Svd,
            "2406.01775",
            "y = x (W - s A0 B0) + b + s x A B, W^T = Q R, A0 = R_r^T, B0 = Q_r^T",
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
    use engraft_linalg::Matrix;

    use super::*;
    use crate::testing::{attach, base, forms_differ, largest};

    #[test]
    fn at_full_rank_the_factors_are_the_weight_and_b_is_orthonormal() {
        for shape in [[7, 12], [12, 7]] {
            let base = base(shape);
            let adapter = attach(
                &OloraConfig {
                    rank: 7,
                    ..OloraConfig::default()
                },
                &base,
            );
            let gram = adapter.b.val().matmul(adapter.b.val().transpose());
            let error = bridge::to_matrix(&gram)
                .max_abs_diff(&Matrix::identity(7))
                .unwrap();
            assert!(error < 1e-13, "{error:e}");
            // s = 1: nothing is left of a weight of rank 7.
            assert!(largest(adapter.rebase(&base).unwrap().weight()) < 1e-12);
            assert!(forms_differ(&adapter, &base) < 1e-12);
        }
    }
}
