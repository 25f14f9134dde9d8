//! What tests of adapters without shared state have in common.

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapter, Bank, Ctx, FrozenBase, Graft, InitContext};
use engraft_linalg::Matrix;
use engraft_tensor::bridge;
use engraft_testkit::{compare, random};

/// A random layer in f64.
pub(crate) fn base(d_in: usize, d_out: usize, bias: bool) -> FrozenBase {
    let device = Device::default();
    FrozenBase::new(
        random::normal([d_in, d_out], "weight", &device, DType::F64),
        bias.then(|| random::normal([d_out], "bias", &device, DType::F64)),
    )
}

/// The adapter as it starts on `base`.
pub(crate) fn fresh<G: Graft>(config: &G, base: &FrozenBase) -> G::Adapter {
    let bank = Bank::default();
    config
        .init(base, &InitContext::new(3, "fc", "tested", base, &bank))
        .expect("a random layer can be adapted")
}

/// The adapter with all trained parameters moved by N(0, 1/4).
pub(crate) fn moved<G: Graft>(config: &G, base: &FrozenBase) -> G::Adapter {
    random::perturb_trained(fresh(config, base), 0.5, 7)
}

/// W' - W, the forms having been found equal.
///
/// # Panics
/// If the activation form differs from the weight form.
pub(crate) fn update<A: Adapter>(adapter: &A, base: &FrozenBase) -> Matrix {
    let ctx = Ctx::default();
    let effective = adapter
        .effective(base, &ctx)
        .expect("it has a weight form in evaluation");
    let (d_in, d_out) = (base.d_in(), base.d_out());
    let x = random::normal([3, d_in], "x", &base.device(), DType::F64);
    let found = adapter.forward(x.clone(), base, &ctx);
    compare::close("forward", &found, &effective.forward(x), 2 * (d_in + d_out)).unwrap();
    bridge::to_matrix(&(effective.weight() - base.weight()))
}

/// A trained parameter's values.
pub(crate) fn matrix(param: &Param<Tensor<2>>) -> Matrix {
    bridge::to_matrix(&param.val())
}
