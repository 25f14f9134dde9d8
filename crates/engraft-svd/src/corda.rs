//! CorDA: context-oriented decomposition.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Needs, Parts,
    Result, Scaling, admit_rank,
};
use engraft_linalg::{LinalgError, Matrix, Operator, Svd, svd};
use engraft_tensor::host::HostMatrix;
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};
use crate::spectrum::{last, leading_of};

/// Damping of the covariance, relative to its mean diagonal entry.
const DAMPING: f64 = 0.01;

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
/// and PEFT 0.21.2, C is the mean over batches of X^T X for inputs divided by their maximum, with
/// 0.01 of its mean diagonal entry added to its diagonal. They double that until a computed inverse
/// has |C C^-1 - I| < 0.05; here there is no inverse that could be inaccurate, as C W v = s u gives
/// A0 = W V_r (S_r s)^-1/2, and the condition of C is at most 100 d_in. The largest triples take
/// products with C and W alone ([`engraft_linalg::leading_svd`]), the smallest all of C W. Its adapter is a
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

/// C W, known by its products: it is never formed unless all of it is decomposed.
struct Seen {
    /// The sum of the batches' covariances.
    moment: HostMatrix,
    batches: f64,
    /// What is added to the diagonal of their mean.
    damping: f64,
    weight: HostMatrix,
}

impl Seen {
    /// C X.
    fn covariance(&self, x: &Matrix) -> Matrix {
        let product = self.moment.times(x).scale(1.0 / self.batches);
        let damped = product.add(&x.scale(self.damping));
        damped.expect("a square matrix keeps the shape")
    }
}

impl Operator for Seen {
    fn shape(&self) -> (usize, usize) {
        self.weight.shape()
    }

    fn times(&self, x: &Matrix) -> Matrix {
        self.covariance(&self.weight.times(x))
    }

    fn transpose_times(&self, x: &Matrix) -> Matrix {
        self.weight.transpose_times(&self.covariance(x))
    }

    fn epsilon(&self) -> f64 {
        self.weight.epsilon()
    }

    fn to_matrix(&self) -> Matrix {
        let mut covariance = self.moment.to_matrix().scale(1.0 / self.batches);
        for i in 0..covariance.rows() {
            covariance.row_mut(i)[i] += self.damping;
        }
        let product = covariance.matmul(&self.weight.to_matrix());
        product.expect("a row of the weight for each input")
    }
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
        let (moment, weight) = (HostMatrix::new(moment), HostMatrix::new(&base.weight()));
        let batches = statistics.batches.max(1) as f64;
        let mean = moment.diagonal().iter().sum::<f64>() / (base.d_in() as f64 * batches);
        if !(mean > 0.0 && mean.is_finite()) {
            return Err(ctx.numeric(format!(
                "the mean square of the scaled inputs is {mean}, expected a positive number"
            )));
        }
        let seen = Seen {
            moment,
            batches,
            damping: DAMPING * mean,
            weight,
        };
        let triples = match self.mode {
            CordaMode::InstructionPreviewed => leading_of(&seen, self.rank, 0, ctx)?,
            CordaMode::KnowledgePreserved => {
                last(&svd(&seen.to_matrix()).map_err(numeric)?, self.rank, ctx)?
            }
        };
        // C W v = s u, so that C^-1 u = W v / s: no inverse is needed.
        let inverse: Vec<f64> = triples
            .s
            .iter()
            .map(|&s| if s > f64::MIN_POSITIVE { 1.0 / s } else { 0.0 })
            .collect();
        let v = triples.vt.transpose();
        let image = match self.mode {
            CordaMode::InstructionPreviewed => seen.weight.times(&v),
            // W v may be small beside W.
            CordaMode::KnowledgePreserved => seen.weight.to_matrix().matmul(&v).map_err(numeric)?,
        };
        let triples = Svd {
            u: image.scale_columns(&inverse).map_err(numeric)?,
            ..triples
        };
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
    use engraft_tensor::bridge;

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
        let rest = adapter.rebase(&base).unwrap().weight();
        let scaled = x.clone() / x.max().abs().unsqueeze();
        let c = bridge::to_matrix(&scaled.clone().transpose().matmul(scaled));
        let mean = (0..9).map(|i| c.get(i, i)).sum::<f64>() / 9.0;
        let c = c.add(&Matrix::identity(9).scale(DAMPING * mean)).unwrap();
        let spectrum = |weight: &burn::tensor::Tensor<2>| {
            svd(&c.matmul(&bridge::to_matrix(weight)).unwrap())
                .unwrap()
                .s
        };
        let (all, left) = (spectrum(&base.weight()), spectrum(&rest));
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
            assert!(largest(adapter.rebase(&base).unwrap().weight()) < 1e-11);
        }
    }
}
