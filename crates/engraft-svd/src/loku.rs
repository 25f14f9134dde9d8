//! LoKU's Fisher-weighted start of low-rank adapters.

use engraft_core::{
    Calibration, Counts, Error, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Needs, Parts, Result, Scaling, Statistics, admit_rank,
};
use engraft_linalg::LinalgError;
use engraft_tensor::bridge;
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};
use crate::spectrum::leading_of;

/// What importances and their roots are kept above, as in the authors' code.
const FLOOR: f64 = 1e-5;

/// FILA, the start of LoKU: y = x (W - s A0 B0) + b + s x A B, with s A0 B0 the approximation of W of
/// rank r under the weights F of its outputs: W diag(f) ~ U_r S_r V_r^T, A0 = U_r (S_r / s)^1/2 and
/// B0 = (S_r / s)^1/2 V_r^T diag(1 / f), f_o^2 the sum of F over the inputs of output o.
///
/// Cha et al., Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs, arXiv
/// 2408.06621, section 3.3 (FILA); `TOFU/forget.py` of the authors. F is the Fisher information of
/// what is to be forgotten relative to that of what is to be kept, elementwise: calibrate on both
/// and give [`relative_fisher`] of the two to `attach_calibrated`. After one calibration alone it
/// is the plain Fisher information of that data. The inverted hinge loss that LoKU unlearns with
/// belongs to the task. Its adapter is a [`ResidualLora`]. Paper defaults: rank 32 (of 4 to 32),
/// alpha = 2 r.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LokuConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Power iterations of the randomised SVD; 0 for the exact one.
    pub niter: usize,
}

impl Default for LokuConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            alpha: Some(64.0),
            scaling: Scaling::Classic,
            dropout: 0.0,
            niter: 0,
        }
    }
}

/// The Fisher information of every layer of `forget`, relative to `retain`: the ratio of the mean
/// squared gradients, F_f / (F_r + 1e-5), as the squared gradient of one batch.
///
/// # Errors
/// A layer without squared gradients in either.
pub fn relative_fisher(forget: &Calibration, retain: &Calibration) -> Result<Calibration> {
    let mean = |calibration: &Calibration, path: &str| {
        let found = calibration.get(path);
        found
            .and_then(|found| {
                let batches = found.batches.max(1) as f64;
                Some(found.squared_gradient.clone()? / batches)
            })
            .ok_or_else(|| {
                Error::Unsupported(format!(
                    "{path}: no squared gradients; calibrate for `loku` on both sets"
                ))
            })
    };
    let mut relative = Calibration::default();
    for (path, _) in forget.iter() {
        let ratio = mean(forget, path)? / (mean(retain, path)? + FLOOR);
        relative.insert(
            path,
            Statistics {
                batches: 1,
                squared_gradient: Some(ratio),
                ..Statistics::default()
            },
        );
    }
    Ok(relative)
}

impl Graft for LokuConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        residual_lora::count(self.rank, layer)
    }

    fn needs(&self) -> Needs {
        Needs {
            squared_gradient: true,
            ..Needs::default()
        }
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        let numeric = |error: LinalgError| ctx.numeric(error);
        let statistics = ctx.statistics()?;
        let Some(squares) = &statistics.squared_gradient else {
            return Err(ctx.numeric("the calibration has no squared gradient of the weight"));
        };
        let batches = statistics.batches.max(1) as f64;
        let importance: Vec<f64> = bridge::values(&squares.clone().sum_dim(0))
            .iter()
            .map(|sum| (sum / batches).sqrt())
            .collect();
        let weighted = bridge::to_matrix(&base.weight())
            .scale_columns(&importance)
            .map_err(numeric)?;
        let mut triples = leading_of(&weighted, self.rank, self.niter, ctx)?;
        let inverse: Vec<f64> = importance.iter().map(|f| 1.0 / (f + FLOOR)).collect();
        triples.vt = triples.vt.scale_columns(&inverse).map_err(numeric)?;
        let scaling = residual_lora::scaling(self.scaling, self.alpha, self.rank);
        ResidualLora::from_triples(Self::META.id, &triples, scaling, self.dropout, ctx)
    }
}

impl Method for LokuConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "loku",
            "LoKU (FILA)",
            Family::Svd,
            "2408.06621",
            "y = x (W - s A0 B0) + b + s x A B, s A0 B0 ~ W under Fisher weights of the outputs",
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
            alpha: None,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                alpha: Some(5.0),
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
                niter: 2,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Adapter;

    use super::*;
    use crate::testing::{attach_to, base, draw, forms_differ};

    fn fisher(values: burn::tensor::Tensor<2>, batches: usize) -> Calibration {
        let mut calibration = Calibration::default();
        calibration.insert(
            "fc",
            Statistics {
                batches,
                squared_gradient: Some(values),
                ..Statistics::default()
            },
        );
        calibration
    }

    #[test]
    fn important_outputs_are_approximated_best() {
        let base = base([10, 8]);
        // Outputs 0 and 1 matter to what is forgotten, output 7 only to what is kept.
        let ramp = |values: [f64; 8]| {
            bridge::tensor(values.repeat(10), [10, 8], &base.device(), base.dtype())
        };
        let forget = fisher(ramp([9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) * 3.0, 3);
        let retain = fisher(ramp([0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0]), 1);
        let relative = relative_fisher(&forget, &retain).unwrap();
        let config = LokuConfig {
            rank: 2,
            ..LokuConfig::default()
        };
        let adapter = attach_to(&config, &base, &relative);
        let rest = bridge::to_matrix(&adapter.rebase(&base).unwrap().weight());
        let norm = |column: usize| (0..10).map(|i| rest.get(i, column).powi(2)).sum::<f64>();
        assert!(norm(0) < 0.1 * norm(7) && norm(1) < 0.1 * norm(7));
        assert!(forms_differ(&adapter, &base) < 1e-10);
        assert!(relative_fisher(&forget, &Calibration::default()).is_err());
    }

    #[test]
    fn with_equal_weights_it_is_the_best_approximation() {
        let base = base([7, 9]);
        let equal = fisher(draw([7, 9], "f") * 0.0 + 4.0, 1);
        let config = LokuConfig {
            rank: 3,
            ..LokuConfig::default()
        };
        let adapter = attach_to(&config, &base, &equal);
        let start = base.weight() - adapter.rebase(&base).unwrap().weight();
        let best = engraft_linalg::svd(&bridge::to_matrix(&base.weight()))
            .and_then(|all| all.truncated(3)?.reconstruct())
            .unwrap();
        // 1 / (f + 1e-5) is not quite 1 / f.
        let error = bridge::to_matrix(&start).max_abs_diff(&best).unwrap();
        assert!(error < 1e-5, "{error:e}");
    }
}
