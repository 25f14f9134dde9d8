//! An adapter trained, and taken as what it adds up by.

use std::collections::BTreeMap;

use burn::module::Module as _;
use burn::tensor::{DType, Device, TensorData};
use engraft_core::{Adaptable as _, Adapted, AnyMethod, Injection, Mode, Scaling, Targets};
use engraft_data::Examples;
use engraft_linalg::Matrix;
use engraft_merge::arithmetic::Operand;
use engraft_merge::update::{Factors, Update};
use engraft_models::Vit;
use engraft_train::{Batcher, Decay, Labelled, TrainConfig, Trainer, cross_entropy};
use serde_json::{Map, Value};

use super::schema::{Method, Protocol};
use crate::error::{Error, Result};

/// Name of the adapter in its model.
const ADAPTER: &str = "default";

/// A method of an experiment.
pub(super) struct Configured {
    method: AnyMethod,
    targets: Targets,
    learning_rate: f64,
}

impl Configured {
    /// Checks a method: LoRA or (IA)^3, which add up factor by factor.
    pub fn new(method: &Method) -> Result<Self> {
        const KNOWN: [&str; 2] = ["lora", "ia3"];
        if !KNOWN.contains(&method.id.as_str()) {
            return Err(Error::unknown(
                "method of a composition",
                &method.id,
                &KNOWN,
            ));
        }
        let config = Value::Object(method.config.clone());
        Ok(Self {
            method: engraft::method(&method.id, &config).map_err(input)?,
            targets: serde_json::from_value(method.targets.clone()).map_err(input)?,
            learning_rate: method.learning_rate,
        })
    }

    /// Trains an adapter; the head stays as it is. Adapters of one seed start from the same values.
    pub fn train(
        &self,
        base: &Vit,
        (name, examples): (&str, &Examples),
        protocol: &Protocol,
        (steps, seed): (u64, u64),
        device: &Device,
    ) -> Result<(Adapted<Vit>, Operand)> {
        let mut adapted = Adapted::new(base.clone().train());
        let injection = Injection::new(seed).targets(self.targets.clone());
        adapted
            .attach(ADAPTER, &self.method, &injection)
            .map_err(input)?;
        let config = TrainConfig {
            steps,
            seed,
            learning_rate: self.learning_rate,
            decay: Decay::Cosine,
            warmup: protocol.warmup.min(steps),
            clip: Some(1.0),
            ..TrainConfig::default()
        };
        let data = Labelled::new(examples, device);
        let size = protocol.batch_size.min(examples.len());
        let mut batches = Batcher::new(examples.len(), size, seed).map_err(input)?;
        let mut trainer = Trainer::new(config, adapted).map_err(failed)?;
        let loss = |adapted: &Adapted<Vit>, rows: &[usize], mode: Mode| {
            let batch = data.rows(rows);
            let logits = adapted.model.forward(batch.images, &adapted.ctx(mode));
            cross_entropy(logits, batch.labels)
        };
        let trained = trainer.run(&mut batches, loss, |_| 0.0, |_| Ok(()));
        trained.map_err(failed)?;
        let adapted = trainer.finish().0.valid();
        let operand = operand(name, &adapted)?;
        Ok((adapted, operand))
    }
}

/// What a trained adapter adds up by: L = s B^T and R = A^T of LoRA, l - 1 of (IA)^3, for weights
/// `[out, in]`.
fn operand(name: &str, adapted: &Adapted<Vit>) -> Result<Operand> {
    let attachment = adapted.attachments().last().expect("one was attached");
    let tensors = adapted.adapter_tensors(ADAPTER).map_err(failed)?;
    let shapes = adapted.model.shapes();
    let mut modules = BTreeMap::new();
    for path in &attachment.layers {
        let mut config = attachment.config.as_object().cloned().unwrap_or_default();
        let overrides = attachment.injection.targets.overrides(path);
        config.extend(overrides.map_err(input)?);
        let of = |field: &str| {
            let key = format!("model.{path}.adapters.{ADAPTER}.{field}");
            let found = tensors.get(&key);
            found.ok_or_else(|| failed(format!("the adapter has no {key}")))
        };
        let update = match attachment.method.as_str() {
            "lora" => low_rank(of("a")?, of("b")?, &config)?,
            _ => {
                let layer = shapes.layers.iter().find(|layer| layer.path == *path);
                let layer = layer.expect("it was attached there");
                scaling(of("l")?, &config, [layer.d_out, layer.d_in])
            }
        };
        modules.insert(path.clone(), update);
    }
    Ok(Operand::new(name, modules))
}

fn low_rank(a: &TensorData, b: &TensorData, config: &Map<String, Value>) -> Result<Update> {
    let number = |key: &str| config.get(key).and_then(Value::as_f64);
    let (Some(rank), Some(alpha)) = (number("rank"), number("alpha")) else {
        return Err(failed("a configuration without rank and alpha"));
    };
    let scaling: Scaling = serde_json::from_value(config["scaling"].clone()).map_err(input)?;
    let s = scaling.factor(alpha, rank as usize);
    let factors = Factors::new(matrix(b)?.transpose().scale(s), matrix(a)?.transpose());
    Ok(Update::low_rank(factors.map_err(failed)?))
}

fn scaling(l: &TensorData, config: &Map<String, Value>, [rows, columns]: [usize; 2]) -> Update {
    let l: Vec<f64> = floats(l).into_iter().map(|l| f64::from(l) - 1.0).collect();
    let zero = Update::zero(rows, columns);
    match config.get("scales").and_then(Value::as_str) {
        Some("input") => Update {
            columns: Some(l),
            ..zero
        },
        _ => Update {
            bias_scale: Some(l.clone()),
            rows: Some(l),
            ..zero
        },
    }
}

pub(super) fn matrix(data: &TensorData) -> Result<Matrix> {
    let &[rows, columns] = &data.shape()[..] else {
        return Err(failed("a factor that is no matrix"));
    };
    Matrix::from_f32(rows, columns, &floats(data)).map_err(failed)
}

pub(super) fn floats(data: &TensorData) -> Vec<f32> {
    let data = data.clone().convert_dtype(DType::F32);
    data.try_into_vec().expect("just converted")
}

fn input(error: impl ToString) -> Error {
    Error::Input(error.to_string())
}

fn failed(error: impl ToString) -> Error {
    Error::Run(error.to_string())
}
