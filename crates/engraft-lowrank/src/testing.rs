//! What the unit tests of this crate share.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapter, Bank, Ctx, FrozenBase, Graft, InitContext};
use engraft_tensor::{Init, Key, bridge};

/// N(0, 1) in f64.
pub(crate) fn normal<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
    Init::Normal { std: 1.0 }.tensor(
        shape,
        &Key::new(1).child(role),
        &Device::default(),
        DType::F64,
    )
}

/// A random layer with a bias, in f64.
pub(crate) fn base([d_in, d_out]: [usize; 2]) -> FrozenBase {
    FrozenBase::new(normal([d_in, d_out], "w"), Some(normal([d_out], "b")))
}

/// The adapter that a configuration makes for `base`.
pub(crate) fn attach<G: Graft>(config: &G, base: &FrozenBase) -> G::Adapter {
    let bank = Bank::default();
    config
        .init(base, &InitContext::new(3, "fc", "default", base, &bank))
        .unwrap()
}

/// The largest difference between activation form and weight form on random tokens.
pub(crate) fn forms_differ(adapter: &impl Adapter, base: &FrozenBase) -> f64 {
    let (x, ctx) = (normal([4, base.d_in()], "x"), Ctx::default());
    let weight_form = adapter.effective(base, &ctx).unwrap().forward(x.clone());
    largest(adapter.forward(x, base, &ctx) - weight_form)
}

/// The largest absolute value.
pub(crate) fn largest<const D: usize>(tensor: Tensor<D>) -> f64 {
    bridge::values(&tensor)
        .into_iter()
        .fold(0.0, |most, value| most.max(value.abs()))
}
