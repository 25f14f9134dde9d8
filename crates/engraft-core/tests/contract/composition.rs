//! Stacks need weight forms below their top.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    Adapted, Adapter, AnyMethod, Composition, Counts, Ctx, Error, FrozenBase, Graft, InitContext,
    Injection, LayerShape, Method, MethodMeta, Mode, Parts, Result,
};
use engraft_tensor::Init;
use engraft_testkit::{Harness, compare, random};
use serde::{Deserialize, Serialize};

use crate::toys::{ScaleConfig, meta, method};

/// y tanh(1 + g): no linear layer.
#[derive(Module, Debug)]
pub struct Formless {
    g: Param<Tensor<1>>,
}

impl Adapter for Formless {
    fn effective(&self, _: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        Err(Error::NoWeightForm {
            method: "formless".to_owned(),
            path: ctx.path().to_owned(),
            reason: "it is not linear".to_owned(),
        })
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let y = base.forward(x);
        y.clone() + y.tanh() * self.g.val().unsqueeze()
    }
}

method!(FormlessConfig, meta("formless"), Parts::graft);

impl Graft for FormlessConfig {
    type Adapter = Formless;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Formless> {
        Ok(Formless {
            g: Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_out()], "g")),
        })
    }
}

#[test]
fn an_adapter_without_a_weight_form_is_refused_below_the_top_of_a_stack() {
    let layer = LayerShape::linear("", 5, 6, true);
    let device = Device::default().autodiff();
    let mut model = Adapted::new(Harness::new(&layer, 0, &device, DType::F64));
    let formless = AnyMethod::new(&FormlessConfig {}).unwrap();
    let scale = AnyMethod::new(&ScaleConfig::default()).unwrap();
    model.attach("scale", &scale, &Injection::new(0)).unwrap();
    model
        .attach("formless", &formless, &Injection::new(0))
        .unwrap();
    let mut model = random::perturb_trained(model, 0.3, 1);
    let x: Tensor<3> = random::normal([2, 3, 5], "x", &device, DType::F64);
    let output = |model: &Adapted<Harness>| {
        model
            .model
            .forward(x.clone(), &model.ctx(Mode::Eval))
            .detach()
    };
    let before = output(&model);
    let refusal = model
        .activate(&["formless", "scale"], Composition::Stack)
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("block.fc1") && refusal.contains("weight form"),
        "{refusal}"
    );
    compare::identical("after the refusal", &output(&model), &before).unwrap();
    // On top, and in a sum, it acts.
    model
        .activate(&["scale", "formless"], Composition::Stack)
        .unwrap();
    let stacked = output(&model);
    assert!(compare::max_difference(&stacked, &before) > 1e-6);
    model
        .activate(&["formless", "scale"], Composition::Sum)
        .unwrap();
    assert!(compare::max_difference(&output(&model), &stacked) > 1e-6);
    // Also of a disabled model.
    model.disable(true);
    assert!(
        model
            .activate(&["formless", "scale"], Composition::Stack)
            .is_err()
    );
}
