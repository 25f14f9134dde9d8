//! One configuration on one shape in one precision.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::{
    Adapted, AnyMethod, Error, Injection, LayerShape, Linear, MethodEntry, Mode, SiteKind, params,
};

use super::Outcome;
use crate::{Harness, random};

/// Name of the adapter under test.
pub(super) const NAME: &str = "tested";
/// Evaluation batch and tokens per row.
const ROWS: [usize; 2] = [3, 2];
/// Standard deviation of what is added to trained parameters to leave the first state.
const SPREAD: f64 = 0.1;
/// The seed of every adapter, unless two are compared.
const SEED: u64 = 1;

/// What the checks look at: the adapter as attached, and in a state that training could reach.
pub(super) struct Case {
    pub entry: MethodEntry,
    pub method: AnyMethod,
    pub layer: LayerShape,
    pub dtype: DType,
    /// As attached.
    pub fresh: Adapted<Harness>,
    /// With all trained parameters moved.
    pub moved: Adapted<Harness>,
}

impl Case {
    pub fn new(
        entry: MethodEntry,
        method: AnyMethod,
        layer: &LayerShape,
        dtype: DType,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut fresh = Adapted::new(harness(&method, layer, dtype));
        attach(&mut fresh, NAME, &method, &injection(layer, SEED))?;
        let moved = random::perturb_trained(fresh.clone(), SPREAD, 2);
        Ok(Self {
            entry,
            method,
            layer: layer.clone(),
            dtype,
            fresh,
            moved,
        })
    }

    /// The model before anything was attached.
    pub fn base(&self) -> Harness {
        harness(&self.method, &self.layer, self.dtype)
    }

    /// A model with the same adapter, made again from nothing.
    pub fn again(&self, dtype: DType) -> Result<Adapted<Harness>, Box<dyn std::error::Error>> {
        let mut adapted = Adapted::new(harness(&self.method, &self.layer, dtype));
        attach(&mut adapted, NAME, &self.method, &self.injection(SEED))?;
        Ok(adapted)
    }

    pub fn injection(&self, seed: u64) -> Injection {
        injection(&self.layer, seed)
    }

    /// x: [3, 2, d_in], on the device of the model it is for.
    pub fn x(&self, model: &Harness) -> Tensor<3> {
        random::normal(
            [ROWS[0], ROWS[1], self.layer.d_in],
            "x",
            &model.head.weight.val().device(),
            self.dtype,
        )
    }

    /// y: [3, 2, 3], the output of a model.
    pub fn output(&self, adapted: &Adapted<Harness>, mode: Mode) -> Tensor<3> {
        adapted
            .model
            .forward(self.x(&adapted.model), &adapted.ctx(mode))
            .detach()
    }

    /// The output in evaluation.
    pub fn eval(&self, adapted: &Adapted<Harness>) -> Tensor<3> {
        self.output(adapted, Mode::Eval)
    }

    /// The output of the model before anything was attached.
    pub fn base_output(&self) -> Tensor<3> {
        self.eval(&Adapted::new(self.base()))
    }

    /// How many products the longest sum of the model has, for tolerances.
    pub fn terms(&self) -> usize {
        self.layer.d_in + self.layer.d_out
    }

    /// Whether training draws random numbers.
    pub fn is_random(&self) -> bool {
        let eval = self.eval(&self.moved).to_data();
        (0..3).any(|step| {
            self.output(&self.moved, Mode::Train { seed: 3, step })
                .to_data()
                .as_bytes()
                != eval.as_bytes()
        })
    }

    /// `count` steps of AdamW with weight decay on L = sum(y . g).
    pub fn train(&self, mut adapted: Adapted<Harness>, count: u64) -> Adapted<Harness> {
        if adapted.trainable().is_empty() {
            return adapted;
        }
        let mut optimizer = AdamWConfig::new().with_weight_decay(0.1).init();
        for step in 0..count {
            let y = adapted.model.forward(
                self.x(&adapted.model),
                &adapted.ctx(Mode::Train { seed: 4, step }),
            );
            let g = random::normal(y.dims(), "cotangent", &y.device(), y.dtype());
            let gradients = GradientsParams::from_grads((y * g).sum().backward(), &adapted);
            adapted = optimizer.step(1e-2, adapted, gradients);
        }
        adapted
    }
}

/// Attaches a method, after a calibration pass where it starts from data.
pub(super) fn attach(
    adapted: &mut Adapted<Harness>,
    name: &str,
    method: &AnyMethod,
    injection: &Injection,
) -> Result<(), Error> {
    let batches = ["first batch", "second batch"];
    let calibration = adapted.calibrate(method, injection, batches, |model, batch| {
        let weight = model.model.block.fc1.weight.val();
        let shape = [ROWS[0], ROWS[1], weight.dims()[0]];
        let x = random::normal(shape, batch, &weight.device(), weight.dtype());
        let y = model.model.forward(x, &model.ctx(Mode::Eval));
        let g = random::normal(y.dims(), "cotangent", &y.device(), y.dtype());
        (y * g).sum()
    })?;
    adapted.attach_calibrated(name, method, injection, &calibration)
}

/// The model for a method: with attention layers where it acts on tokens, keys or values.
pub(super) fn harness(method: &AnyMethod, layer: &LayerShape, dtype: DType) -> Harness {
    let harness = Harness::new(layer, 0, &Device::default().autodiff(), dtype);
    let of_block = |kind: &SiteKind| matches!(kind, SiteKind::Hidden | SiteKind::Sublayer);
    let mut kinds = method.parts().site.iter().flat_map(|site| site.kinds());
    match kinds.all(of_block) {
        true => harness,
        false => harness.with_front(0),
    }
}

/// Layers with a bias have their head trained along, the others not, so that both occur.
fn injection(layer: &LayerShape, seed: u64) -> Injection {
    let injection = Injection::new(seed);
    if layer.bias {
        injection.with_head()
    } else {
        injection
    }
}

/// The layers that hold an adapter, with their paths.
pub(super) fn adapted_layers(model: &Harness) -> impl Iterator<Item = (&'static str, &Linear)> {
    let layers = [
        ("block.fc1", &model.block.fc1),
        ("block.fc2", &model.block.fc2),
        ("head", &model.head),
    ];
    layers
        .into_iter()
        .filter(|(_, layer)| !layer.adapters.is_empty())
}

/// All parameters of a module by path.
pub(super) fn parameters<M: Module>(module: &M) -> BTreeMap<String, TensorData> {
    params::read(module, |_| true)
}

/// Whether two modules hold the same parameters bit by bit: the first that differs if not.
pub(super) fn same_parameters<M: Module>(what: &str, found: &M, expected: &M) -> Outcome {
    let (found, expected) = (parameters(found), parameters(expected));
    if !found.keys().eq(expected.keys()) {
        return Err(format!(
            "{what}: other parameters: found {:?}, expected {:?}",
            found.keys(),
            expected.keys()
        )
        .into());
    }
    match found
        .iter()
        .find(|(path, data)| data.as_bytes() != expected[*path].as_bytes())
    {
        Some((path, _)) => Err(format!("{what}: {path} is not bit-identical").into()),
        None => Ok(()),
    }
}
