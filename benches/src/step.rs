//! A layer with one adapter, forward and backward.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{AnyAdapter, AnyMethod, Bank, Ctx, FrozenBase, InitContext, LayerShape, Mode};
use engraft_tensor::{Init, Key};

use crate::Layer;

/// A frozen layer with an adapter, and an input that needs a gradient as in the middle of a model.
#[derive(Debug)]
pub struct Step {
    x: Tensor<2>,
    base: FrozenBase,
    bank: Bank,
    adapter: Option<AnyAdapter>,
}

impl Step {
    /// The frozen layer alone, or with the adapter of a method that admits it.
    ///
    /// # Panics
    /// If the adapter cannot be made.
    pub fn new(layer: Layer, method: Option<&AnyMethod>) -> Self {
        let device = Device::default().autodiff();
        let draw = |rows, cols, role: &str| {
            Init::Normal { std: 0.02 }.tensor(
                [rows, cols],
                &Key::new(0).child(role),
                &device,
                DType::F32,
            )
        };
        let base = FrozenBase::new(draw(layer.d_in, layer.d_out, "w"), None);
        let mut bank = Bank::default();
        let adapter = method
            .and_then(|method| method.parts().graft.clone())
            .map(|graft| {
                let shape = LayerShape::linear("layer", layer.d_in, layer.d_out, false);
                bank.grow("bench", &graft.banks(&[shape]), 0, &device, DType::F32);
                graft
                    .init(&base, &InitContext::new(0, "layer", "bench", &base, &bank))
                    .expect("the layer is admissible")
            });
        Self {
            x: draw(layer.tokens, layer.d_in, "x").require_grad(),
            base,
            bank,
            adapter,
        }
    }

    /// Forward and backward in activation form.
    pub fn activation_form(&self) {
        let ctx = Ctx::new(&self.bank, Mode::Eval);
        let y = match &self.adapter {
            Some(adapter) => adapter.forward(self.x.clone(), &self.base, &ctx),
            None => self.base.forward(self.x.clone()),
        };
        self.backward(y);
    }

    /// Forward and backward through the weight form.
    ///
    /// # Panics
    /// If the adapter has none.
    pub fn weight_form(&self) {
        let ctx = Ctx::new(&self.bank, Mode::Eval);
        let adapter = self.adapter.as_ref().expect("an adapted layer");
        self.backward(
            adapter
                .effective(&self.base, &ctx)
                .expect("a weight form")
                .forward(self.x.clone()),
        );
    }

    fn backward(&self, y: Tensor<2>) {
        let gradients = y.sum().backward();
        std::hint::black_box(self.x.grad(&gradients));
    }
}
