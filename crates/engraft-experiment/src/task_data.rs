//! The examples of a run.

use burn::tensor::Device;
use engraft_data::{Digits, Domain, Examples, Split, few_shot};
use engraft_train::{Batcher, Labelled};

use crate::error::{Error, Result};
use crate::spec::RunSpec;

/// Batches of the calibration pass.
const CALIBRATION_BATCHES: u64 = 8;

/// A mistake in what was asked for.
fn input(error: impl ToString) -> Error {
    Error::Input(error.to_string())
}

/// Training, validation and test examples of a run, on its device.
pub(crate) struct Data {
    pub(crate) train: Labelled,
    pub(crate) validation: Labelled,
    pub(crate) test: Labelled,
}

/// The few-shot training examples, the validation and the test examples of a run.
pub(crate) fn examples(spec: &RunSpec) -> Result<[Examples; 3]> {
    let digits = Digits::load().map_err(input)?;
    let domain: Domain = spec.task.domain.parse().map_err(input)?;
    // One division of the source images for every domain, before any shift.
    let split = Split::stratified(&digits.labels);
    let train = few_shot(
        &digits.labels,
        &split.train,
        spec.task.labels_per_class,
        spec.seed,
    )
    .map_err(input)?;
    Ok([train, split.validation, split.test].map(|indices| domain.apply(&digits, &indices)))
}

impl Data {
    pub(crate) fn new(spec: &RunSpec, device: &Device) -> Result<Self> {
        let [train, validation, test] =
            examples(spec)?.map(|examples| Labelled::new(&examples, device));
        Ok(Self {
            train,
            validation,
            test,
        })
    }

    pub(crate) fn batcher(&self, spec: &RunSpec) -> Result<Batcher> {
        Batcher::new(
            self.train.labels.dims()[0],
            spec.optimizer.batch_size,
            spec.seed,
        )
        .map_err(input)
    }

    /// The batches that a method starts from which starts from data: those of the first steps of
    /// training.
    pub(crate) fn calibration(&self, spec: &RunSpec) -> Result<Vec<Labelled>> {
        let mut batcher = self.batcher(spec)?;
        Ok((0..CALIBRATION_BATCHES)
            .map(|step| self.train.rows(batcher.batch(step)))
            .collect())
    }
}
