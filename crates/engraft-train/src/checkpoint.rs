//! Checkpoints: trained parameters, optimiser state, step, curves and best parameters in one file.
//!
//! A safetensors file with the keys `model.<path>`, `best.<path>`, `optimizer.<path>.<i>` and
//! `pending.loss`; its one metadata entry holds the rest as JSON. Frozen parameters are not in it:
//! they come from the base model, or grow again from their seeds.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use engraft_core::{Trained, file, params};
use serde::{Deserialize, Serialize};

use crate::curves::Curves;
use crate::error::{Error, Result};
use crate::optimizer::State;
use crate::train_config::TrainConfig;
use crate::trainer::Trainer;

const MANIFEST: &str = "engraft-checkpoint";
const PENDING: &str = "pending.loss";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Manifest {
    config: TrainConfig,
    step: u64,
    /// Steps that the optimiser took on each parameter.
    steps: BTreeMap<String, u64>,
    /// Losses summed up in `pending.loss`.
    pending: u64,
    curves: Curves,
}

impl<M: Trained> Trainer<M> {
    /// Writes a checkpoint, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = BTreeMap::new();
        let mut put = |prefix: &str, values: BTreeMap<String, TensorData>| {
            tensors.extend(
                values
                    .into_iter()
                    .map(|(path, value)| (format!("{prefix}.{path}"), value)),
            );
        };
        put("model", self.trained_values());
        put("best", self.best.clone().unwrap_or_default());
        let moments = |(path, state): (&String, &State)| {
            let entries = state.moments.iter().enumerate();
            entries
                .map(|(index, moment)| (format!("{path}.{index}"), moment.to_data()))
                .collect::<Vec<_>>()
        };
        put(
            "optimizer",
            self.optimizer.states.iter().flat_map(moments).collect(),
        );
        if let Some((sum, _)) = &self.pending {
            tensors.insert(PENDING.to_owned(), sum.to_data());
        }
        let manifest = Manifest {
            config: self.config.clone(),
            step: self.step,
            steps: self
                .optimizer
                .states
                .iter()
                .map(|(path, state)| (path.clone(), state.step))
                .collect(),
            pending: self.pending.as_ref().map_or(0, |(_, count)| *count),
            curves: self.curves.clone(),
        };
        let manifest = serde_json::to_string(&manifest).expect("plain data");
        Ok(file::write_tensors(
            path,
            &tensors,
            HashMap::from([(MANIFEST.to_owned(), manifest)]),
        )?)
    }

    /// The run of a checkpoint, continued on `model`: the same base with the same adapters
    /// attached. Its next update is bit-identical to the one that would have followed.
    ///
    /// # Errors
    /// A truncated or corrupted file; a checkpoint of another configuration, or of a model that
    /// trains other parameters.
    pub fn resume(config: TrainConfig, model: M, path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let (mut tensors, metadata) = file::read_tensors(path)?;
        let manifest = metadata.get(MANIFEST).ok_or_else(|| {
            wrong("not a checkpoint: its metadata has no `engraft-checkpoint` entry".to_owned())
        })?;
        let manifest: Manifest = serde_json::from_str(manifest).map_err(|error| {
            wrong(format!(
                "its `engraft-checkpoint` entry is malformed: {error}"
            ))
        })?;
        if manifest.config != config {
            return Err(wrong("it was written under another configuration; start afresh, or restore the configuration".to_owned()));
        }
        let mut trainer = Self::new(config, model)?;
        let device = device_of(trainer.model());
        let pending = tensors.remove(PENDING);
        let values = |prefix: &str| -> BTreeMap<String, TensorData> {
            let inside = tensors.iter().filter_map(|(key, data)| {
                Some((
                    key.strip_prefix(prefix)?.strip_prefix('.')?.to_owned(),
                    data.clone(),
                ))
            });
            inside.collect()
        };

        let expected = shapes(&trainer.trained_values());
        let trained = values("model");
        let best = values("best");
        compare(&expected, &shapes(&trained)).map_err(wrong)?;
        if !best.is_empty() {
            compare(&expected, &shapes(&best)).map_err(wrong)?;
        }
        trainer.model = trainer.model.map(|model| params::write(model, trained));
        trainer.best = (!best.is_empty()).then_some(best);
        let mut moments = values("optimizer");
        for (path, step) in manifest.steps {
            let own = (0..).map_while(|index| moments.remove(&format!("{path}.{index}")));
            let moments = own.map(|data| tensor(data, &device)).collect();
            trainer
                .optimizer
                .states
                .insert(path, State { step, moments });
        }
        trainer.pending = pending.map(|sum| (tensor(sum, &device), manifest.pending));
        trainer.step = manifest.step;
        trainer.curves = manifest.curves;
        Ok(trainer)
    }
}

/// A tensor in the precision of its data, without autodiff.
fn tensor(data: TensorData, device: &Device) -> Tensor<1> {
    let dtype = data.dtype();
    Tensor::from_data(data, (device, dtype))
}

fn device_of<M: Module>(model: &M) -> Device {
    model.devices().first().cloned().unwrap_or_default().inner()
}

fn shapes(values: &BTreeMap<String, TensorData>) -> BTreeMap<String, Vec<usize>> {
    values
        .iter()
        .map(|(path, data)| (path.clone(), data.shape().to_vec()))
        .collect()
}

fn compare(
    expected: &BTreeMap<String, Vec<usize>>,
    found: &BTreeMap<String, Vec<usize>>,
) -> Result<(), String> {
    let mut wrong: Vec<String> = expected
        .iter()
        .filter_map(|(path, shape)| match found.get(path) {
            None => Some(format!("{path} is missing")),
            Some(other) if other != shape => {
                Some(format!("{path} has shape {other:?}, expected {shape:?}"))
            }
            Some(_) => None,
        })
        .collect();
    wrong.extend(
        found
            .keys()
            .filter(|path| !expected.contains_key(*path))
            .map(|path| format!("{path} is unexpected")),
    );
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("it belongs to another model: {}", wrong.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Adapted;

    use super::*;
    use crate::testing::{Problem, config};

    fn run(trainer: &mut Trainer<Adapted<engraft_models::Mlp>>, problem: &Problem, steps: u64) {
        let mut batcher = problem.batcher();
        for _ in 0..steps {
            let rows = batcher.batch(trainer.steps_done()).to_vec();
            trainer
                .step(|model, mode| problem.loss(model, &rows, mode))
                .unwrap();
        }
    }

    #[test]
    fn the_next_update_after_resuming_is_bit_identical() {
        let problem = Problem::new();
        let config = TrainConfig {
            steps: 6,
            loss_every: 3,
            clip: Some(0.1),
            ..config()
        };
        let mut whole = Trainer::new(config.clone(), problem.adapted()).unwrap();
        run(&mut whole, &problem, 4);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint.safetensors");
        let mut first = Trainer::new(config.clone(), problem.adapted()).unwrap();
        run(&mut first, &problem, 2);
        first.save(&path).unwrap();
        let mut second = Trainer::resume(config.clone(), problem.adapted(), &path).unwrap();
        assert_eq!(second.steps_done(), 2);
        run(&mut second, &problem, 2);

        assert_eq!(second.trained_values(), whole.trained_values());
        assert_eq!(second.curves(), whole.curves());
        // Saved again at the same step, the two files are the same to the byte.
        let other = directory.path().join("other.safetensors");
        whole.save(&other).unwrap();
        second.save(&path).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            std::fs::read(&other).unwrap()
        );
    }

    #[test]
    fn broken_and_foreign_files_are_refused_with_a_reason() {
        let problem = Problem::new();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint.safetensors");
        let mut trainer = Trainer::new(config(), problem.adapted()).unwrap();
        run(&mut trainer, &problem, 1);
        trainer.save(&path).unwrap();
        let message = |config, model| {
            Trainer::resume(config, model, &path)
                .unwrap_err()
                .to_string()
        };

        assert!(
            message(
                TrainConfig {
                    learning_rate: 0.5,
                    ..config()
                },
                problem.adapted()
            )
            .contains("another configuration")
        );
        let more = message(config(), problem.adapted_with_head());
        assert!(more.contains("model.fc2.weight is missing"), "{more}");

        let bytes = std::fs::read(&path).unwrap();
        for len in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let error = message(config(), problem.adapted());
            assert!(
                error.contains("checkpoint.safetensors")
                    && error.contains("truncated or corrupted"),
                "{error}"
            );
        }
    }
}
