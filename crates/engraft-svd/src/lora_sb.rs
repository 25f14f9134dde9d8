//! LoRA-SB: LoRA-XS between the singular vectors of the first step of full fine-tuning.

use burn::module::Param;
use engraft_core::{
    AtInit, Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Needs,
    Parts, Result, admit_rank, check_dropout, positive_rank,
};
use engraft_linalg::Matrix;
use engraft_tensor::bridge;
use serde::{Deserialize, Serialize};

use crate::lora_xs::LoraXs;
use crate::spectrum::{frozen, leading_of, tensor};

/// LoRA-SB: y = x W + b + x A R B with -eta sign(G) ~ A R B, A = U_r, R = S_r and B = V_r^T, for the
/// gradient G of the loss over the calibration batches.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | frozen, orthonormal, in the adapter file |
/// | R | [r, r] | trained, the singular values at first |
/// | eta | | size of the first step |
///
/// Ponkshe, Singhal et al., Initialization using Update Approximation is a Silver Bullet for
/// Extremely Efficient Low-Rank Fine-Tuning, arXiv 2411.19557, sections 3.2 to 3.4. The first step
/// is that of Adam, a sign for every entry of the gradients summed over about 50 samples; eta is the learning
/// rate over the number of warm-up steps (`train_arithmetic.py` of the authors: 1e-4 over 0.02 of
/// 16,667). The step itself is taken: nothing is subtracted from W, as in their code. Orthonormal
/// factors make the best scaling 1, so that there is no alpha. Its adapter is a [`LoraXs`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoraSbConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// eta.
    pub step: f64,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Power iterations of the randomised SVD; 0 for the exact one.
    pub niter: usize,
}

impl Default for LoraSbConfig {
    fn default() -> Self {
        Self {
            rank: 96,
            step: 3e-7,
            dropout: 0.0,
            niter: 0,
        }
    }
}

impl Graft for LoraSbConfig {
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

    fn needs(&self) -> Needs {
        Needs {
            gradient: true,
            ..Needs::default()
        }
    }

    fn init(&self, _: &FrozenBase, ctx: &InitContext) -> Result<LoraXs> {
        let Some(gradient) = &ctx.statistics()?.gradient else {
            return Err(ctx.numeric("the calibration has no gradient of the weight"));
        };
        let gradient = bridge::to_matrix(gradient);
        gradient
            .check_finite("the gradient")
            .map_err(|error| ctx.numeric(error))?;
        // signum has no zero.
        let sign = |value: f64| if value == 0.0 { 0.0 } else { value.signum() };
        let step = Matrix::from_fn(gradient.rows(), gradient.cols(), |i, j| {
            -self.step * sign(gradient.get(i, j))
        });
        let found = leading_of(&step, self.rank, self.niter, ctx)?;
        Ok(LoraXs {
            a: frozen(tensor(&found.u, ctx)),
            r: Param::from_tensor(tensor(&Matrix::from_diagonal(&found.s), ctx)),
            b: frozen(tensor(&found.vt, ctx)),
            scaling: 1.0,
            dropout: self.dropout,
        })
    }
}

impl Method for LoraSbConfig {
    const META: MethodMeta = MethodMeta {
        at_init: AtInit::Bounded(1e-3),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "lora-sb",
            "LoRA-SB",
            Family::Svd,
            "2411.19557",
            "y = x W + b + x A R B, A R B ~ -eta sign(dL/dW), A and B orthonormal",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if !(self.step.is_finite() && self.step > 0.0) {
            return Err(format!("step {}: expected a positive number", self.step));
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: layer.max_rank().min(3),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                step: 1e-5,
                dropout: 0.1,
                niter: 2,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{base, calibrated, draw, largest};

    #[test]
    fn at_full_rank_the_first_step_is_taken_exactly() {
        let base = base([6, 9]);
        let gradient = draw([6, 9], "gradient");
        let config = LoraSbConfig {
            rank: 6,
            step: 0.25,
            ..LoraSbConfig::default()
        };
        let adapter = calibrated(&config, &base, &[], Some(&gradient));
        let step = adapter
            .a
            .val()
            .matmul(adapter.r.val())
            .matmul(adapter.b.val());
        assert!(largest(step + gradient.sign() * 0.25) < 1e-13);
    }

    #[test]
    fn counts_are_the_published_ones() {
        let of = |rank, layers: usize| {
            let config = LoraSbConfig {
                rank,
                ..LoraSbConfig::default()
            };
            let layer = LayerShape::linear("fc", 3072, 3072, false);
            7 * layers * config.count(&layer).trainable
        };
        // Mistral-7B, Gemma-2-9B, Llama-3.2-3B, seven linear layers a block.
        assert_eq!(
            [32, 64, 96].map(|rank| of(rank, 32)),
            [229_376, 917_504, 2_064_384]
        );
        assert_eq!([32, 64].map(|rank| of(rank, 42)), [301_056, 1_204_224]);
        assert_eq!([32, 64].map(|rank| of(rank, 28)), [200_704, 802_816]);
    }
}
