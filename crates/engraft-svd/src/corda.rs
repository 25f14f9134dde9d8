//! CorDA: context-oriented decomposition.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Needs, Parts,
    Result, Scaling, admit_rank,
};
use engraft_linalg::{LinalgError, Matrix, solve, svd};
use engraft_tensor::bridge;
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};
use crate::spectrum::last;

/// First damping of the covariance, relative to its mean diagonal entry.
const DAMPING: f64 = 0.01;
/// Frobenius norm of C C^-1 - I that is accurate enough.
const ACCURACY: f64 = 0.05;
/// Doublings of the damping before the covariance is called hopeless.
const DOUBLINGS: usize = 64;

/// Which end of the context-oriented spectrum is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CordaMode {
    /// The r largest components for samples of the new task.
    #[default]
    InstructionPreviewed,
    /// The r smallest for samples of what is to be kept.
    KnowledgePreserved,
}

/// CorDA: the weight is decomposed as the calibration data sees it. y = x (W - s A0 B0) + b + s x A B
/// with C W = U S V^T for the covariance C of the inputs, A0 = C^-1 U_r (S_r / s)^1/2 and
/// B0 = (S_r / s)^1/2 V_r^T over the r largest or smallest triples.
///
/// Yang et al., CorDA: Context-Oriented Decomposition Adaptation of Large Language Models for
/// Task-Aware Parameter-Efficient Fine-tuning, arXiv 2406.05223, section 3. As in the authors' code
/// and PEFT 0.21.2, C is the mean over batches of X^T X for inputs divided by their maximum, and
/// 0.01 of its mean diagonal entry, doubled until |C C^-1 - I| < 0.05, is added to its diagonal.
/// Everything is computed in f64, where one damping is enough; PEFT uses f32. Its adapter is a
/// [`ResidualLora`]; A0 and B0 are stored, so that a file needs neither data nor the residual. Paper
/// defaults: rank 128, alpha = rank, 256 samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CordaConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// `instruction-previewed` or `knowledge-preserved`.
    pub mode: CordaMode,
}

impl Default for CordaConfig {
    fn default() -> Self {
        Self {
            rank: 128,
            alpha: None,
            scaling: Scaling::Classic,
            dropout: 0.0,
            mode: CordaMode::InstructionPreviewed,
        }
    }
}

/// A damped covariance and its inverse.
fn damped(covariance: &Matrix) -> Result<(Matrix, Matrix), LinalgError> {
    let n = covariance.rows();
    let mean = (0..n).map(|i| covariance.get(i, i)).sum::<f64>() / n as f64;
    let unit = Matrix::identity(n);
    let attempt = |damping: f64| {
        let fixed = covariance.add(&unit.scale(damping * mean))?;
        let inverse = solve(&fixed, &unit)?;
        let error = fixed.matmul(&inverse)?.sub(&unit)?.frobenius_norm();
        Ok((error < ACCURACY, fixed, inverse))
    };
    let mut damping = DAMPING;
    for _ in 0..DOUBLINGS {
        // A matrix that is still singular is damped more, like one whose inverse is inaccurate.
        if let Ok((true, fixed, inverse)) = attempt(damping) {
            return Ok((fixed, inverse));
        }
        damping *= 2.0;
    }
    attempt(damping).map(|(_, fixed, inverse)| (fixed, inverse))
}

impl Graft for CordaConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        residual_lora::count(self.rank, layer)
    }

    fn needs(&self) -> Needs {
        Needs {
            scaled_moment: true,
            ..Needs::default()
        }
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        let numeric = |error: LinalgError| ctx.numeric(error);
        let statistics = ctx.statistics()?;
        let Some(moment) = &statistics.scaled_moment else {
            return Err(ctx.numeric("the calibration has no covariance of the inputs"));
        };
        let covariance = bridge::to_matrix(moment).scale(1.0 / statistics.batches.max(1) as f64);
        let (covariance, inverse) = damped(&covariance).map_err(numeric)?;
        let seen = covariance
            .matmul(&bridge::to_matrix(&base.weight))
            .and_then(|seen| svd(&seen))
            .map_err(numeric)?;
        let mut triples = match self.mode {
            CordaMode::InstructionPreviewed => seen.truncated(self.rank).map_err(numeric)?,
            CordaMode::KnowledgePreserved => last(&seen, self.rank, ctx)?,
        };
        triples.u = inverse.matmul(&triples.u).map_err(numeric)?;
        let scaling = residual_lora::scaling(self.scaling, self.alpha, self.rank);
        ResidualLora::from_triples(Self::META.id, &triples, scaling, self.dropout, ctx)
    }
}

impl Method for CordaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "corda",
            "CorDA",
            Family::Svd,
            "2406.05223",
            "y = x (W - s A0 B0) + b + s x A B, s A0 B0 = C^-1 U_r S_r V_r^T, C W = U S V^T",
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
                // The smallest triples are the worst conditioned: a large s keeps them small.
                alpha: Some(1024.0),
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
                mode: CordaMode::KnowledgePreserved,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Adapter;

    use super::*;
    use crate::testing::{base, calibrated, draw, forms_differ, largest};

    #[test]
    fn the_residual_is_best_for_the_inputs_that_were_seen() {
        // With rank 6 of 9 trained as the largest, x times the residual is small in the norm of C.
        let base = base([9, 7]);
        let x = draw([200, 9], "calibration");
        let config = CordaConfig {
            rank: 4,
            alpha: Some(8.0),
            ..CordaConfig::default()
        };
        let adapter = calibrated(&config, &base, std::slice::from_ref(&x), None);
        let rest = adapter.rebase(&base).unwrap().weight;
        let scaled = x.clone() / x.max().abs().unsqueeze();
        let c = bridge::to_matrix(&scaled.clone().transpose().matmul(scaled));
        let (c, _) = damped(&c).unwrap();
        let spectrum = |weight: &burn::tensor::Tensor<2>| {
            svd(&c.matmul(&bridge::to_matrix(weight)).unwrap())
                .unwrap()
                .s
        };
        let (all, left) = (spectrum(&base.weight), spectrum(&rest));
        for (expected, found) in all[4..].iter().chain(&[0.0; 4]).zip(&left) {
            assert!((expected - found).abs() < 1e-10 * all[0]);
        }
        assert!(forms_differ(&adapter, &base) < 1e-12);
    }

    #[test]
    fn the_two_modes_at_full_rank_are_the_whole_weight() {
        let base = base([5, 5]);
        let x = draw([3, 5], "calibration");
        for mode in [
            CordaMode::InstructionPreviewed,
            CordaMode::KnowledgePreserved,
        ] {
            let config = CordaConfig {
                rank: 5,
                mode,
                ..CordaConfig::default()
            };
            // Three tokens on five inputs: only the damping makes C invertible.
            let adapter = calibrated(&config, &base, std::slice::from_ref(&x), None);
            assert!(largest(adapter.rebase(&base).unwrap().weight) < 1e-11);
        }
    }
}
