//! A training step of a small network.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapted, AnyMethod, Error, Gradients, Injection, Mode, Result};
use engraft_models::{Mlp, MlpConfig};
use engraft_tensor::{Init, Key};
use engraft_train::{LearningRates, Optimizer, OptimizerConfig, mean_squared_error};

use crate::shapes::Shapes;

/// Batch and tokens of an input of the comparison.
pub const TOKENS: [usize; 2] = [4, 128];

fn unknown(what: &str, name: &str) -> Error {
    Error::Unsupported(format!("no {what} called {name} in shapes.toml"))
}

/// The method called `name` in `shapes.toml`; `full` is all parameters, `frozen` no method.
///
/// # Errors
/// An unknown name.
pub fn chosen(shapes: &Shapes, name: &str) -> Result<Option<AnyMethod>> {
    match name {
        "frozen" => Ok(None),
        "full" => engraft::method("full", &serde_json::json!({})).map(Some),
        name => {
            let method = shapes.method(name).ok_or_else(|| unknown("method", name))?;
            method.registered().map(Some)
        }
    }
}

/// A network of linear layers, what is trained of it, its optimiser and its data.
#[derive(Debug)]
pub struct Training {
    model: Option<Adapted<Mlp>>,
    optimizer: Optimizer,
    x: Tensor<3>,
    target: Tensor<3>,
    trained: usize,
}

impl Training {
    /// The network called `net` with the method called `method` on all its layers, or `frozen`
    /// (the gradient of the input alone), or `full` (all parameters).
    ///
    /// # Errors
    /// An unknown name, or a method that a layer does not admit.
    pub fn named(net: &str, method: &str) -> Result<Self> {
        let shapes = Shapes::load();
        let net = shapes.net(net).ok_or_else(|| unknown("net", net))?;
        let chosen = chosen(&shapes, method)?;
        let inside = chosen.is_none();
        Self::new(&net.dims, TOKENS, chosen.as_ref(), inside)
    }

    /// A network of these widths on `batch` x `length` tokens; nothing is trained without a method.
    /// `inside`: the gradient of the input is asked for, as inside a larger model.
    ///
    /// # Errors
    /// A method that a layer does not admit.
    pub fn new(
        dims: &[usize],
        [batch, length]: [usize; 2],
        method: Option<&AnyMethod>,
        inside: bool,
    ) -> Result<Self> {
        let device = Device::default().autodiff();
        let config = MlpConfig::new(dims);
        let mut model = Adapted::new(Mlp::new(&config, &Key::new(0), &device, DType::F32)?);
        if let Some(method) = method {
            model.attach("bench", method, &Injection::new(0))?;
        }
        let draw = |name: &str, width: usize| -> Tensor<3> {
            let key = Key::new(1).child(name);
            Init::Normal { std: 1.0 }.tensor([batch, length, width], &key, &device, DType::F32)
        };
        let x = draw("x", dims[0]);
        let trained = model.trainable();
        Ok(Self {
            x: if inside { x.require_grad() } else { x },
            target: draw("target", dims[dims.len() - 1]),
            trained: trained
                .iter()
                .map(|found| found.shape.iter().product::<usize>())
                .sum(),
            model: Some(model),
            optimizer: Optimizer::new(OptimizerConfig::default(), LearningRates::default())
                .map_err(|error| Error::Unsupported(error.to_string()))?,
        })
    }

    /// Trained numbers.
    pub fn trained(&self) -> usize {
        self.trained
    }

    /// Forward, mean squared error, backward, AdamW.
    ///
    /// # Panics
    /// Never: the model is back after every step.
    pub fn step(&mut self) {
        let model = self.model.take().expect("back after every step");
        let y = model
            .model
            .forward(self.x.clone(), &model.ctx(Mode::Train { seed: 0, step: 0 }));
        let loss = mean_squared_error(y, self.target.clone());
        let gradients = Gradients::backward(&loss, &model);
        self.model = Some(self.optimizer.step(model, &gradients, 1e-3));
    }
}
