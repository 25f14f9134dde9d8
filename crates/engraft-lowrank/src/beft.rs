//! BEFT: bias-efficient fine-tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// Configuration of [`Beft`]: nothing but where it goes. The paper adapts the value projections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BeftConfig {}

/// y = x W + b + v, with v `[d_out]` trained and zero at first.
///
/// BEFT: Bias-Efficient Fine-Tuning of Language Models, arXiv 2509.15974: of the query, key and
/// value projections it trains only one's bias, the value's, which serves best with little data.
/// As in PEFT, v is a vector of its own beside b, so that the base stays as it is and layers
/// without bias can be adapted too; PEFT cannot merge there, a weight form with a bias can.
#[derive(Module, Debug)]
pub struct Beft {
    /// v, `[d_out]`.
    pub v: Param<Tensor<1>>,
}

impl Adapter for Beft {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let v = self.v.val();
        let bias = match &base.bias {
            Some(bias) => bias.clone() + v,
            None => v,
        };
        Ok(FrozenBase::new(base.weight(), Some(bias)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        base.forward(x) + self.v.val().unsqueeze()
    }
}

impl Graft for BeftConfig {
    type Adapter = Beft;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Beft> {
        Ok(Beft {
            v: Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_out()], "v")),
        })
    }
}

impl Method for BeftConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("BEFT"),
        changes_bias: true,
        ..MethodMeta::graft(
            "beft",
            "BEFT",
            Family::Lowrank,
            "2509.15974",
            "y = x W + b + v",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial;

    #[test]
    fn only_the_bias_moves_on_layers_with_and_without_one() {
        for bias in [true, false] {
            let base = trial::base(5, 3, bias);
            let beft = trial::moved(&BeftConfig {}, &base);
            assert_eq!(trial::update(&beft, &base).max_abs(), 0.0);
            let effective = beft.effective(&base, &Ctx::default()).unwrap();
            assert!(effective.bias.is_some());
        }
        // The values of RoBERTa-base: 12 blocks of width 768.
        let layer = LayerShape::linear("", 768, 768, true);
        assert_eq!(12 * BeftConfig {}.count(&layer).trainable, 9216);
    }
}
