//! A training step of a small network.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapted, Error, Gradients, Injection, Mode, Result};
use engraft_models::{Mlp, MlpConfig};
use engraft_tensor::{Init, Key};
use engraft_train::{LearningRates, Optimizer, OptimizerConfig};

use crate::shapes::Shapes;

/// Batch and tokens of an input.
const TOKENS: [usize; 2] = [4, 128];

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
    pub fn new(net: &str, method: &str) -> Result<Self> {
        let unknown =
            |what: &str, name: &str| Error::Unsupported(format!("no {what} called {name}"));
        let shapes = Shapes::load();
        let net = shapes.net(net).ok_or_else(|| unknown("net", net))?;
        let device = Device::default().autodiff();
        let mlp = Mlp::new(
            &MlpConfig::new(&net.dims),
            &Key::new(0),
            &device,
            DType::F32,
        )?;
        let mut model = Adapted::new(mlp);
        let chosen = match method {
            "frozen" => None,
            "full" => Some(engraft::method("full", &serde_json::json!({}))?),
            name => {
                let method = shapes.method(name).ok_or_else(|| unknown("method", name))?;
                Some(method.registered()?)
            }
        };
        if let Some(method) = &chosen {
            model.attach("bench", method, &Injection::new(0))?;
        }
        let draw = |name: &str, width: usize| {
            let shape = [TOKENS[0], TOKENS[1], width];
            Init::Normal { std: 1.0 }.tensor(shape, &Key::new(1).child(name), &device, DType::F32)
        };
        let x: Tensor<3> = draw("x", net.dims[0]);
        let trained = model
            .trainable()
            .iter()
            .map(|found| found.shape.iter().product::<usize>())
            .sum();
        Ok(Self {
            x: if chosen.is_none() {
                x.require_grad()
            } else {
                x
            },
            target: draw("target", net.dims[net.dims.len() - 1]),
            trained,
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
        let loss = (y - self.target.clone()).powi_scalar(2).mean();
        let gradients = Gradients::backward(&loss, &model);
        self.model = Some(self.optimizer.step(model, &gradients, 1e-3));
    }
}
