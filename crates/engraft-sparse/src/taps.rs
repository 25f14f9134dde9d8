//! TAPS: which layers have a weight of their own is trained.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::straight_through::indicator;

/// Configuration of [`Taps`]. Defaults: tau = 0.1 and s = 0.15 at first; lambda sets how
/// many layers are shared and has no default of its own: 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TapsConfig {
    /// s at first.
    pub score: f64,
    /// tau: the layer has its own weight from this score on.
    pub threshold: f64,
    /// lambda, the weight of |s| in the training loss.
    pub lambda: f64,
}

impl Default for TapsConfig {
    fn default() -> Self {
        Self {
            score: 0.15,
            threshold: 0.1,
            lambda: 0.0,
        }
    }
}

/// W' = W + I(s >= tau) D, with dI/ds taken as 1.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D (`delta`) | [d_in, d_out] | trained, zero at first |
/// | s (`score`) | `[1]` | trained, 0.15 at first |
/// | tau | | 0.1 |
///
/// Wallingford et al., Task Adaptive Parameter Sharing for Multi-Task Learning, arXiv 2203.16708,
/// section 3. A task keeps D only where the indicator is on: the layers that are off are shared
/// with the base. The training loss gains lambda |s| for every layer, which drives indicators off.
/// The start values are those of an unofficial
/// implementation, for want of the authors' code.
///
/// Activation form: one more product with D, O(tokens d_in d_out), without which there would be no
/// gradient to s where the layer is off.
#[derive(Module, Debug)]
pub struct Taps {
    /// D, [d_in, d_out].
    pub delta: Param<Tensor<2>>,
    /// s, `[1]`.
    pub score: Param<Tensor<1>>,
    /// tau.
    pub threshold: f64,
    /// lambda.
    pub lambda: f64,
    /// s where the indicator is held, in the surrogate whose derivative the gradient is.
    held: Option<Tensor<1>>,
}

impl Taps {
    /// I(s >= tau), [1, 1].
    fn gate(&self) -> Tensor<2> {
        indicator(self.score.val(), self.held.clone(), |score| {
            score.greater_equal_elem(self.threshold)
        })
        .unsqueeze()
    }
}

impl Adapter for Taps {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(base.weight() + self.delta.val() * self.gate()))
    }

    fn penalty(&self, _: &FrozenBase, _: &Ctx) -> Option<Tensor<1>> {
        (self.lambda > 0.0).then(|| self.score.val().abs() * self.lambda)
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held: Some(self.score.val().detach()),
            ..self.clone()
        }
    }
}

impl Graft for TapsConfig {
    type Adapter = Taps;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_in * layer.d_out + 1)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Taps> {
        let shape = [base.d_in(), base.d_out()];
        Ok(Taps {
            delta: Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "delta")),
            score: Param::from_tensor(ctx.tensor(Init::Constant(self.score), [1], "score")),
            threshold: self.threshold,
            lambda: self.lambda,
            held: None,
        })
    }
}

impl Method for TapsConfig {
    const META: MethodMeta = MethodMeta {
        regularised: true,
        gradient: Gradient::Surrogate("dI/ds = 1 for the indicator I(s >= tau)"),
        ..MethodMeta::graft(
            "taps",
            "TAPS",
            Family::Sparse,
            "2203.16708",
            "W' = W + I(s >= tau) D",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let off = Self {
            score: -0.2,
            threshold: 0.0,
            lambda: 0.5,
        };
        vec![Self::default(), off]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::entries::testing::{assert_forms_agree, attached, change, layer, normal};

    #[test]
    fn a_layer_below_the_threshold_is_the_base_and_still_feels_its_score() {
        let base = layer(6, 5);
        let mut adapter = attached(&TapsConfig::default(), &base);
        adapter.delta = Param::from_tensor(normal([6, 5], "delta"));
        assert_forms_agree(&adapter, &base);
        let delta = bridge::values(&adapter.delta.val());
        let worst = change(&adapter, &base)
            .iter()
            .zip(&delta)
            .fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-14);

        adapter.score = adapter.score.map(|score| score - 0.06);
        assert!(change(&adapter, &base).iter().all(|change| *change == 0.0));
        let trained = adapter.train();
        let x = normal([3, 6], "x").autodiff();
        let gradients = trained
            .forward(x, &base.train(), &Ctx::default())
            .sum()
            .backward();
        let score = trained.score.val().grad(&gradients).unwrap();
        assert!(score.into_scalar::<f64>().abs() > 1e-3);
        let delta = trained.delta.val().grad(&gradients).unwrap();
        assert!(bridge::values(&delta).iter().all(|g| *g == 0.0));
    }
}
