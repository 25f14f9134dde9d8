//! A training loop for the tests of methods whose structure changes.

use burn::tensor::{DType, Device};
use engraft_core::{
    Adapted, Adapter, AnyMethod, Evolve, FrozenBase, Gradients, Injection, LayerShape, Method,
    Mode, Targets, Time, Trained, params,
};
use engraft_tensor::bridge;
use engraft_testkit::{Harness, random};
use engraft_train::{LearningRates, Optimizer, OptimizerConfig};

/// What a test sees of the first layer, 12 -> 10, after an update.
pub(crate) struct Run<'a, A> {
    /// Updates made before this one.
    pub step: u64,
    pub adapter: &'a A,
    pub base: &'a FrozenBase,
    /// dL/dW of the frozen weight, where the method wanted it.
    pub gradient: Option<Vec<f64>>,
    /// The gradients of the adapter's parameters.
    pub gradients: &'a Gradients,
}

/// Path of a field of the first layer's adapter.
pub(crate) fn field(name: &str) -> String {
    format!("model.block.fc1.adapters.test.{name}")
}

/// Trains `config` on two layers, 12 -> 10, for `total` updates of AdamW, each on a batch of its own.
pub(crate) fn run<G: Evolve + Method>(
    config: &G,
    total: u64,
    mut look: impl FnMut(Run<'_, G::Adapter>),
) where
    G::Adapter: Adapter,
{
    let device = Device::default().autodiff();
    let layer = LayerShape::linear("block.fc1", 12, 10, true);
    let mut model = Adapted::new(Harness::new(&layer, 0, &device, DType::F64));
    let method = AnyMethod::new(config).unwrap();
    let injection = Injection::new(1).targets(Targets::names(&["fc1", "fc2"]));
    model.attach("test", &method, &injection).unwrap();
    let rates = LearningRates::new(&[]).unwrap();
    let mut optimizer = Optimizer::new(OptimizerConfig::default(), rates).unwrap();
    for step in 0..total {
        let time = Time { step, total };
        let wanted = model.wanted(time);
        let want = |model, trained| {
            params::set_trained(model, |path| {
                wanted.iter().any(|known| known == path).then_some(trained)
            })
        };
        model = want(model, true);
        let x = random::normal([4, 3, 12], &format!("batch {step}"), &device, DType::F64);
        let y = model.model.forward(x, &model.ctx(Mode::Eval));
        let loss = y.powi_scalar(2).mean();
        let mut gradients = Gradients::backward(&loss, &model);
        model = want(model, false);
        let dense = gradients.split_off(&wanted);
        model = optimizer.step(model, &gradients, 1e-2);
        gradients.extend(dense);
        let resets = model.after_update(time, &gradients).unwrap();
        optimizer.forget(&resets);
        let linear = &model.model.block.fc1;
        let base = linear.base();
        look(Run {
            step,
            adapter: linear.adapters.get("test").unwrap().downcast().unwrap(),
            base: &base,
            gradient: gradients.get("model.block.fc1.weight").map(bridge::values),
            gradients: &gradients,
        });
    }
}
