//! What the tests of the methods share.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapter, Bank, Ctx, FrozenBase, Graft, InitContext};
use engraft_tensor::{Init, Key, bridge};

/// A frozen layer with random weights in f64.
pub(crate) struct Layer {
    pub(crate) base: FrozenBase,
}

fn draw<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    let key = Key::new(3).child(name);
    Init::Normal { std: 1.0 }.tensor(shape, &key, &Device::default(), DType::F64)
}

impl Layer {
    pub(crate) fn new(d_in: usize, d_out: usize) -> Self {
        let base = FrozenBase::new(draw("w", [d_in, d_out]), Some(draw("b", [d_out])));
        Self { base }
    }

    /// The adapter of a configuration, as attached.
    pub(crate) fn adapt<G: Graft>(&self, config: &G) -> G::Adapter {
        let bank = Bank::default();
        let ctx = InitContext::new(5, "fc", "default", &self.base, &bank);
        config.init(&self.base, &ctx).unwrap()
    }

    /// The rows of W' - W, [d_in][d_out].
    pub(crate) fn update(&self, adapter: &impl Adapter) -> Vec<Vec<f64>> {
        let zero = self.base.with_weight(self.base.weight().zeros_like());
        let update = adapter.effective(&zero, &Ctx::default()).unwrap().weight();
        let d_out = self.base.d_out();
        bridge::values(&update)
            .chunks(d_out)
            .map(<[f64]>::to_vec)
            .collect()
    }

    /// Largest difference between the activation form and the weight form on random tokens.
    pub(crate) fn forms_distance(&self, adapter: &impl Adapter) -> f64 {
        let x = draw("x", [5, self.base.d_in()]);
        let ctx = Ctx::default();
        let merged = adapter.effective(&self.base, &ctx).unwrap();
        let merged = merged.forward(x.clone());
        let active = adapter.forward(x, &self.base, &ctx);
        distance(&bridge::values(&active), &bridge::values(&merged))
    }
}

/// Largest difference of two lists of one length.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}
