//! A small problem for the tests of the loop: LoRA on an MLP that is to imitate another.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapted, AnyMethod, Injection, Mode};
use engraft_lowrank::LoraConfig;
use engraft_models::{Mlp, MlpConfig};
use engraft_tensor::{Init, Key};

use crate::batcher::Batcher;
use crate::train_config::TrainConfig;

pub(crate) struct Problem {
    device: Device,
    inputs: Tensor<2>,
    targets: Tensor<2>,
}

pub(crate) fn config() -> TrainConfig {
    TrainConfig {
        steps: 20,
        learning_rate: 2e-2,
        loss_every: 5,
        ..TrainConfig::default()
    }
}

impl Problem {
    pub fn new() -> Self {
        Self::on(&Device::default())
    }

    /// With the model on a device.
    pub fn on(device: &Device) -> Self {
        let inputs =
            Init::Normal { std: 1.0 }.tensor([24, 6], &Key::new(1), &Device::default(), DType::F32);
        let context = engraft_core::Ctx::default();
        let targets = mlp(2, &Device::default()).forward(inputs.clone(), &context);
        Self {
            device: device.clone(),
            inputs,
            targets,
        }
    }

    pub fn model(&self) -> Mlp {
        mlp(3, &self.device)
    }

    pub fn adapted(&self) -> Adapted<Mlp> {
        self.attach(&Injection::new(5))
    }

    pub fn adapted_with_head(&self) -> Adapted<Mlp> {
        self.attach(&Injection::new(5).with_head())
    }

    fn attach(&self, injection: &Injection) -> Adapted<Mlp> {
        let mut adapted = Adapted::new(self.model());
        // Dropout makes a resumed run depend on the step.
        let method = AnyMethod::new(&LoraConfig {
            rank: 4,
            dropout: 0.1,
            ..LoraConfig::default()
        });
        adapted.attach("test", &method.unwrap(), injection).unwrap();
        adapted
    }

    /// With the head adapted too, so that there are two layers.
    pub fn adapted_with(&self, method: &AnyMethod) -> Adapted<Mlp> {
        let mut adapted = Adapted::new(self.model());
        let all = ["fc1", "fc2"].map(str::to_owned).to_vec();
        let mut injection = Injection::new(5);
        injection.targets.include = engraft_core::Include::Names(all);
        adapted.attach("test", method, &injection).unwrap();
        adapted
    }

    pub fn batcher(&self) -> Batcher {
        Batcher::new(24, 8, 9).unwrap()
    }

    pub fn loss(&self, model: &Adapted<Mlp>, rows: &[usize], mode: Mode) -> Tensor<1> {
        let indices: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        let indices =
            Tensor::<1, burn::tensor::Int>::from_data(indices.as_slice(), &Device::default());
        let pick = |all: &Tensor<2>| all.clone().select(0, indices.clone());
        let y = model.model.forward(pick(&self.inputs), &model.ctx(mode));
        (y - pick(&self.targets)).powi_scalar(2).mean()
    }
}

fn mlp(seed: u64, device: &Device) -> Mlp {
    let config = MlpConfig {
        head: true,
        ..MlpConfig::new(&[6, 16, 4])
    };
    Mlp::new(&config, &Key::new(seed), device, DType::F32).unwrap()
}
