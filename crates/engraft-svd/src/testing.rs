//! Small layers for the unit tests of this crate.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapter, Bank, Calibration, Ctx, FrozenBase, Graft, InitContext, Statistics};
use engraft_tensor::{Init, Key, bridge};

/// A random f64 tensor of standard deviation 1.
pub(crate) fn draw<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
    Init::Normal { std: 1.0 }.tensor(
        shape,
        &Key::new(1).child(role),
        &Device::default(),
        DType::F64,
    )
}

/// A random layer in f64, with a bias.
pub(crate) fn base(shape: [usize; 2]) -> FrozenBase {
    FrozenBase::new(draw(shape, "w"), Some(draw([shape[1]], "b")))
}

/// The adapter of a configuration on a layer.
pub(crate) fn attach<G: Graft>(config: &G, base: &FrozenBase) -> G::Adapter {
    config
        .init(
            base,
            &InitContext::new(3, "fc", "default", base, &Bank::default()),
        )
        .unwrap()
}

/// The adapter of a configuration that starts from data.
pub(crate) fn attach_to<G: Graft>(
    config: &G,
    base: &FrozenBase,
    calibration: &Calibration,
) -> G::Adapter {
    let bank = Bank::default();
    let ctx = InitContext::new(3, "fc", "default", base, &bank).with_calibration(calibration);
    config.init(base, &ctx).unwrap()
}

/// The adapter after calibration on batches of inputs, or with the gradient of one batch.
pub(crate) fn calibrated<G: Graft>(
    config: &G,
    base: &FrozenBase,
    batches: &[Tensor<2>],
    gradient: Option<&Tensor<2>>,
) -> G::Adapter {
    let mut statistics = Statistics {
        batches: batches.len().max(1),
        gradient: gradient.cloned(),
        ..Statistics::default()
    };
    for x in batches {
        let moment = |x: Tensor<2>| x.clone().transpose().matmul(x);
        let scaled = moment(x.clone() / x.clone().max().abs().unsqueeze());
        let (moment, sum) = (moment(x.clone()), x.clone().sum_dim(0).squeeze_dim(0));
        statistics.tokens += x.dims()[0];
        statistics.scaled_moment = Some(
            statistics
                .scaled_moment
                .map_or(scaled.clone(), |all| all + scaled),
        );
        statistics.moment = Some(statistics.moment.map_or(moment.clone(), |all| all + moment));
        statistics.sum = Some(
            statistics
                .sum
                .map_or(sum.clone(), |all: Tensor<1>| all + sum),
        );
    }
    let mut calibration = Calibration::default();
    calibration.insert("fc", statistics);
    attach_to(config, base, &calibration)
}

/// The largest absolute entry.
pub(crate) fn largest<const D: usize>(tensor: Tensor<D>) -> f64 {
    bridge::values(&tensor)
        .into_iter()
        .fold(0.0, |most, value| most.max(value.abs()))
}

/// The largest difference between activation form and weight form on five tokens, after the
/// adapter's own change of the base.
pub(crate) fn forms_differ(adapter: &impl Adapter, base: &FrozenBase) -> f64 {
    let base = adapter.rebase(base).unwrap_or_else(|| base.clone());
    let x = draw([5, base.d_in()], "x");
    let effective = adapter.effective(&base, &Ctx::default()).unwrap();
    largest(adapter.forward(x.clone(), &base, &Ctx::default()) - effective.forward(x))
}
