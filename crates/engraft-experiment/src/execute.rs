//! Runs with Burn.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use engraft_core::{Adapted, Injection, Mode, ModelShapes, Plan, Targets};
use engraft_data::{Digits, Domain};
use engraft_models::{DIGITS_VIT, Vit, digits_vit, digits_vit_config};
use engraft_train::{
    AdamW, Decay, Labelled, OptimizerConfig, RatePattern, Sgd, TrainConfig, Trainer, accuracy,
    cross_entropy,
};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    executor::{Cost, Counts, Executor, MethodInfo, ModelInfo, Outcome, Point, Progress},
    process,
    spec::{BASE, MethodSpec, ModelSpec, OptimizerName, RunSpec, Schedule},
    task_data::{Data, examples},
};

const MODEL: &str = "digits-vit";
const DATA: &str = "digits";
/// The name of the adapter in its model.
const ADAPTER: &str = "default";

/// Trains with Burn on the device that a run names.
#[derive(Debug, Default)]
pub struct BurnExecutor;

/// A mistake in what was asked for.
fn input(error: impl ToString) -> Error {
    Error::Input(error.to_string())
}

/// A failure of a run.
fn failed(error: impl ToString) -> Error {
    Error::Run(error.to_string())
}

fn known(kind: &'static str, found: &str, valid: &[&str]) -> Result<()> {
    if valid.contains(&found) {
        Ok(())
    } else {
        Err(Error::unknown(kind, found, valid))
    }
}

impl Executor for BurnExecutor {
    fn model_info(&self, model: &ModelSpec, data: &str) -> Result<ModelInfo> {
        known("model", &model.preset, &[MODEL])?;
        known("data set", data, &[DATA])?;
        let digits = Digits::load().map_err(input)?;
        let weights = Sha256::digest(DIGITS_VIT);
        Ok(ModelInfo {
            parameters: digits_vit_config().shapes().total(),
            weights_sha256: weights.iter().map(|byte| format!("{byte:02x}")).collect(),
            data_sha256: digits.hash(),
        })
    }

    fn method(&self, method: &MethodSpec) -> Result<MethodInfo> {
        if method.id == BASE {
            return Ok(MethodInfo {
                family: "—".to_owned(),
                resolved: method.clone(),
            });
        }
        let configured = engraft::method(&method.id, &method.config).map_err(input)?;
        let targets = targets(method)?;
        let family = serde_json::to_value(configured.meta().family).expect("plain data");
        Ok(MethodInfo {
            family: family.as_str().unwrap_or_default().to_owned(),
            resolved: MethodSpec {
                id: method.id.clone(),
                config: configured.config().clone(),
                targets: serde_json::to_value(targets).expect("plain data"),
            },
        })
    }

    fn validate(&self, spec: &RunSpec) -> Result<()> {
        known("model", &spec.model.preset, &[MODEL])?;
        known("data set", &spec.task.data, &[DATA])?;
        spec.task.domain.parse::<Domain>().map_err(input)?;
        engraft_tensor::device(&spec.device).map_err(input)?;
        examples(spec)?;
        if spec.method.id == BASE {
            return Ok(());
        }
        plan(spec, &digits_vit_config().shapes()).map(drop)
    }

    fn execute(&self, spec: &RunSpec, observe: &mut dyn FnMut(Progress)) -> Result<Outcome> {
        let device = device(spec)?;
        let data = Data::new(spec, &device)?;
        let (mut adapted, counts) = model(spec, &device, &data)?;
        let (mut train_loss, mut validation) = (Vec::new(), Vec::new());
        if spec.method.id != BASE {
            let (trained, curves) = train(spec, adapted, &data, observe)?;
            adapted = trained;
            train_loss = curves.loss.iter().map(point).collect();
            validation = curves.evaluation.iter().map(point).collect();
        }
        let structure = structure(spec, &mut adapted)?;
        let adapted = adapted.valid();
        Ok(Outcome {
            structure,
            val_accuracy: evaluate(&adapted, &data.validation),
            test_accuracy: evaluate(&adapted, &data.test),
            train_loss,
            validation,
            counts,
        })
    }

    fn measure(&self, spec: &RunSpec) -> Result<Cost> {
        const WARM_UP: usize = 3;
        const STEPS: usize = 20;
        let device = device(spec)?;
        let data = Data::new(spec, &device)?;
        let (adapted, _) = model(spec, &device, &data)?;
        process::reset_peak();
        let mut seconds = Vec::with_capacity(STEPS);
        if spec.method.id == BASE {
            // Without training, a step is a forward pass over a batch.
            let adapted = adapted.valid();
            let rows: Vec<usize> =
                (0..spec.optimizer.batch_size.min(data.train.labels.dims()[0])).collect();
            let batch = data.train.rows(&rows);
            for _ in 0..WARM_UP + STEPS {
                let start = Instant::now();
                evaluate(&adapted, &batch);
                seconds.push(start.elapsed().as_secs_f64());
            }
        } else {
            let config = TrainConfig {
                steps: (WARM_UP + STEPS) as u64,
                evaluate_every: 0,
                loss_every: 1,
                ..config(spec)?
            };
            let mut trainer = Trainer::new(config, adapted).map_err(failed)?;
            let mut batcher = data.batcher(spec)?;
            let mut start = Instant::now();
            trainer
                .run(
                    &mut batcher,
                    |model, rows, mode| loss(model, &data.train.rows(rows), mode),
                    |_| 0.0,
                    |_| {
                        seconds.push(start.elapsed().as_secs_f64());
                        start = Instant::now();
                        Ok(())
                    },
                )
                .map_err(failed)?;
        }
        let mut counted = seconds.split_off(WARM_UP);
        counted.sort_by(f64::total_cmp);
        Ok(Cost {
            step_seconds: counted[counted.len() / 2],
            peak_bytes: process::peak_resident_bytes(),
        })
    }
}

fn device(spec: &RunSpec) -> Result<Device> {
    Ok(engraft_tensor::device(&spec.device)
        .map_err(input)?
        .autodiff())
}

fn targets(method: &MethodSpec) -> Result<Targets> {
    serde_json::from_value(method.targets.clone()).map_err(input)
}

/// Every method trains the same head along.
fn injection(spec: &RunSpec) -> Result<Injection> {
    Ok(Injection::new(spec.seed)
        .targets(targets(&spec.method)?)
        .with_head())
}

fn plan(spec: &RunSpec, shapes: &ModelShapes) -> Result<Plan> {
    let method = engraft::method(&spec.method.id, &spec.method.config).map_err(input)?;
    Plan::new(&method, shapes, &injection(spec)?).map_err(input)
}

fn model(spec: &RunSpec, device: &Device, data: &Data) -> Result<(Adapted<Vit>, Counts)> {
    let mut adapted = Adapted::new(digits_vit(device).map_err(failed)?);
    let total = digits_vit_config().shapes().total();
    if spec.method.id == BASE {
        return Ok((
            adapted,
            Counts {
                total,
                ..Counts::default()
            },
        ));
    }
    let method = engraft::method(&spec.method.id, &spec.method.config).map_err(input)?;
    let injection = injection(spec)?;
    let calibration = if method.needs().any() {
        let batches = data.calibration(spec)?;
        adapted.calibrate(&method, &injection, batches, |model, batch| {
            loss(model, &batch, Mode::Eval)
        })
    } else {
        Ok(engraft_core::Calibration::default())
    };
    adapted
        .attach_calibrated(ADAPTER, &method, &injection, &calibration.map_err(failed)?)
        .map_err(failed)?;
    let engraft_core::Counts {
        trainable,
        shared,
        norms,
        head,
        stored,
    } = adapted.counts(ADAPTER).map_err(failed)?;
    Ok((
        adapted,
        Counts {
            trainable,
            stored,
            shared,
            norms,
            head,
            total,
        },
    ))
}

fn config(spec: &RunSpec) -> Result<TrainConfig> {
    let rule = &spec.optimizer;
    let method = engraft::method(&spec.method.id, &spec.method.config).map_err(input)?;
    Ok(TrainConfig {
        steps: rule.steps as u64,
        seed: spec.seed,
        learning_rate: rule.learning_rate,
        optimizer: match rule.name {
            OptimizerName::Adamw => OptimizerConfig::AdamW(AdamW {
                weight_decay: rule.weight_decay,
                ..AdamW::default()
            }),
            OptimizerName::Sgd => OptimizerConfig::Sgd(Sgd {
                weight_decay: rule.weight_decay,
                ..Sgd::default()
            }),
        },
        decay: match rule.schedule {
            Schedule::Constant => Decay::Constant,
            Schedule::Linear => Decay::Linear,
            Schedule::Cosine => Decay::Cosine,
        },
        warmup: rule.warmup as u64,
        clip: rule.clip_norm,
        rates: RatePattern::declared(&method, ADAPTER),
        loss_every: 5,
        evaluate_every: (rule.steps as u64 / 4).max(1),
        ..TrainConfig::default()
    })
}

fn train(
    spec: &RunSpec,
    adapted: Adapted<Vit>,
    data: &Data,
    observe: &mut dyn FnMut(Progress),
) -> Result<(Adapted<Vit>, engraft_train::Curves)> {
    let mut trainer = Trainer::new(config(spec)?, adapted).map_err(failed)?;
    let mut batcher = data.batcher(spec)?;
    let ran = trainer.run(
        &mut batcher,
        |model, rows, mode| loss(model, &data.train.rows(rows), mode),
        |model| evaluate(model, &data.validation),
        |trainer| {
            observe(Progress {
                step: trainer.steps_done() as usize,
                steps: spec.optimizer.steps,
            });
            Ok(())
        },
    );
    match ran {
        // A learning rate that diverges is a result: the model as it is, evaluated like any other.
        Ok(()) | Err(engraft_train::Error::Diverged { .. }) => Ok(trainer.finish()),
        Err(error) => Err(failed(error)),
    }
}

/// What became of a structure that changes while it trains.
fn structure(
    spec: &RunSpec,
    adapted: &mut Adapted<Vit>,
) -> Result<BTreeMap<String, BTreeMap<String, f64>>> {
    if spec.method.id == BASE {
        return Ok(BTreeMap::new());
    }
    let layers = adapted.structure(ADAPTER).map_err(failed)?;
    let named = |numbers: Vec<(&str, f64)>| {
        let numbers = numbers.into_iter();
        numbers.map(|(name, n)| (name.to_owned(), n)).collect()
    };
    Ok(layers
        .into_iter()
        .map(|(path, numbers)| (path, named(numbers)))
        .collect())
}

fn loss(model: &Adapted<Vit>, batch: &Labelled, mode: Mode) -> burn::tensor::Tensor<1> {
    let logits = model.model.forward(batch.images.clone(), &model.ctx(mode));
    cross_entropy(logits, batch.labels.clone())
}

fn evaluate(model: &Adapted<Vit>, examples: &Labelled) -> f64 {
    let images = examples.images.clone().inner();
    let logits = model.model.forward(images, &model.ctx(Mode::Eval));
    accuracy(logits, examples.labels.clone().inner())
}

fn point(point: &engraft_train::Point) -> Point {
    Point {
        step: point.step as usize,
        value: point.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::example;

    #[test]
    fn a_run_is_reproducible_and_learns() {
        let executor = BurnExecutor;
        let run = || executor.execute(&example(), &mut |_| ()).unwrap();
        let (first, second) = (run(), run());
        assert_eq!(first, second);
        assert!(first.train_loss.last().unwrap().value < first.train_loss[0].value);
        assert!(first.counts.trainable > 0 && first.counts.head > 0);
    }

    #[test]
    fn bad_input_is_refused_before_anything_is_trained() {
        let refused = |change: fn(&mut RunSpec)| {
            let mut spec = example();
            change(&mut spec);
            let error = BurnExecutor.validate(&spec).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        };
        assert!(refused(|spec| spec.task.domain = "quarter-trun".into()).contains("quarter-turn"));
        assert!(refused(|spec| spec.device = "fleks".into()).contains("nearest: flex"));
        assert!(refused(|spec| spec.method.id = "lroa".into()).contains("lora"));
        assert!(
            refused(|spec| spec.method.config = serde_json::json!({"rnak": 4}))
                .contains("nearest: rank")
        );
        assert!(
            refused(|spec| spec.method.targets = serde_json::json!(["qproj"])).contains("q_proj")
        );
        assert!(refused(|spec| spec.task.labels_per_class = 100_000).contains("100000"));
        assert!(
            refused(|spec| {
                spec.method.id = "pissa".into();
                spec.method.config = serde_json::json!({"rank": 1000});
            })
            .contains("rank 1000")
        );
        assert!(
            BurnExecutor
                .method(&MethodSpec {
                    id: BASE.into(),
                    config: serde_json::Value::Null,
                    targets: serde_json::Value::Null
                })
                .is_ok()
        );
    }
}
