//! Mask tuning: which weights are used is trained, not what they are.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::straight_through::indicator;

/// Configuration of [`MaskTuning`]. Defaults: the authors' (configs/trainers/MASK/vit_b16.yaml).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MaskTuningConfig {
    /// Every score at first.
    pub score: f64,
    /// tau: a weight is used while its score is above.
    pub threshold: f64,
    /// Weight of the L2 norm of the scores in the training loss.
    pub penalty: f64,
}

impl Default for MaskTuningConfig {
    fn default() -> Self {
        Self {
            score: 1e-2,
            threshold: 5e-3,
            penalty: 1e-4,
        }
    }
}

/// W' = W . I(M > tau), with dI/dM taken as 1.
///
/// | symbol | shape | |
/// |---|---|---|
/// | M (`scores`) | [d_in, d_out] | trained, 0.01 at first |
/// | tau | | 0.005 |
///
/// Zheng et al., Regularized Mask Tuning: Uncovering Hidden Knowledge in Pre-trained Vision-Language
/// Models, arXiv 2307.15049; authors' code modules/masklayers.py. The method masks the layers that
/// matter to the task, in the paper the attention of the image encoder (AMT): those are the
/// targets. The loss gains 1e-4 |M| with the L2 norm of each M. The gradient dropout (the R of R-AMT)
/// is a rule of the training loop and not part of the adapter: it keeps an entry of the task's
/// gradient with a probability that falls where the gradient of the distance to the pre-trained
/// model's answers opposes it. The trained scores decide one bit per
/// weight; the adapter file holds the scores, so that training can go on.
#[derive(Module, Debug)]
pub struct MaskTuning {
    /// M, [d_in, d_out].
    pub scores: Param<Tensor<2>>,
    /// tau.
    pub threshold: f64,
    /// Weight of |M| in the training loss.
    pub penalty: f64,
    /// M where the mask is held, in the surrogate whose derivative the gradient is.
    held: Option<Tensor<2>>,
}

impl Adapter for MaskTuning {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let mask = indicator(self.scores.val(), self.held.clone(), |scores| {
            scores.greater_elem(self.threshold)
        });
        Ok(base.with_weight(base.weight() * mask))
    }

    fn penalty(&self, _: &FrozenBase, _: &Ctx) -> Option<Tensor<1>> {
        let norm = self.scores.val().powi_scalar(2).sum().sqrt();
        (self.penalty > 0.0).then(|| norm * self.penalty)
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held: Some(self.scores.val().detach()),
            ..self.clone()
        }
    }
}

impl Graft for MaskTuningConfig {
    type Adapter = MaskTuning;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_in * layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<MaskTuning> {
        let shape = [base.d_in(), base.d_out()];
        let scores = ctx.tensor(Init::Constant(self.score), shape, "scores");
        Ok(MaskTuning {
            scores: Param::from_tensor(scores),
            threshold: self.threshold,
            penalty: self.penalty,
            held: None,
        })
    }
}

impl Method for MaskTuningConfig {
    const META: MethodMeta = MethodMeta {
        regularised: true,
        gradient: Gradient::Surrogate("dI/dM = 1 for the indicator I(M > tau)"),
        ..MethodMeta::graft(
            "mask-tuning",
            "R-AMT",
            Family::Sparse,
            "2307.15049",
            "W' = W . I(M > tau)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.score > self.threshold {
            Ok(())
        } else {
            Err(format!(
                "score {} and threshold {}: expected a score above the threshold, or nothing is used",
                self.score, self.threshold
            ))
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self::default(),
            Self {
                score: 0.2,
                threshold: 0.15,
                penalty: 0.0,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::entries::testing::{attached, layer, normal};

    #[test]
    fn weights_are_used_whole_or_not_at_all() {
        let base = layer(6, 5);
        let mut adapter = attached(&MaskTuningConfig::default(), &base);
        adapter.scores = Param::from_tensor(normal([6, 5], "scores"));
        let masked = adapter.effective(&base, &Ctx::default()).unwrap().weight();
        let (masked, weight) = (bridge::values(&masked), bridge::values(&base.weight()));
        let scores = bridge::values(&adapter.scores.val());
        for ((masked, weight), score) in masked.iter().zip(weight).zip(scores) {
            assert_eq!(*masked, if score > 5e-3 { weight } else { 0.0 });
        }
    }
}
