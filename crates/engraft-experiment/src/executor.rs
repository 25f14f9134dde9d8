//! The border to the tensor library: what the runner asks of whoever trains.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    json::diverging,
    spec::{MethodSpec, ModelSpec, RunSpec},
};

/// What a run starts from. A record made from other weights or data is not reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// All parameters of the model, the head included.
    pub parameters: usize,
    /// SHA-256 of the pre-trained weights.
    pub weights_sha256: String,
    /// SHA-256 of the data.
    pub data_sha256: String,
}

/// A method as the registry knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodInfo {
    /// The family's name as the table shows it.
    pub family: String,
    /// The method with every default of its configuration and targets filled in, so that a run's
    /// key changes with a default.
    pub resolved: MethodSpec,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
}

/// Numbers of parameters. What is shared, norms and the head are not part of `trainable`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Parameters that the method trains.
    pub trainable: usize,
    /// Numbers in the saved adapter.
    pub stored: usize,
    /// Numbers shared between layers.
    pub shared: usize,
    /// Trained normalisation parameters.
    pub norms: usize,
    /// Trained parameters of the head, the same for every method.
    pub head: usize,
    /// All parameters of the base model, the head included.
    pub total: usize,
}

impl Counts {
    /// All that the method trains, the head aside.
    #[must_use]
    pub fn without_head(&self) -> usize {
        self.trainable + self.shared + self.norms
    }
}

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Updates done.
    pub step: usize,
    /// The value; NaN once training has diverged.
    #[serde(with = "diverging")]
    pub value: f64,
}

/// The result of a run. Accuracies are fractions between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Accuracy on the validation images.
    pub val_accuracy: f64,
    /// Accuracy on the test images.
    pub test_accuracy: f64,
    /// Training loss over steps.
    pub train_loss: Vec<Point>,
    /// Validation accuracy over steps.
    pub validation: Vec<Point>,
    /// Parameters.
    pub counts: Counts,
    /// Of a method whose structure changes while it trains: what came out, by layer (ranks,
    /// entries).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub structure: BTreeMap<String, BTreeMap<String, f64>>,
}

/// What a method costs, measured while nothing else runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Median seconds of one training step.
    pub step_seconds: f64,
    /// Largest resident memory of the process in bytes, where the system tells.
    pub peak_bytes: Option<u64>,
}

/// Trains and evaluates. The command line uses one made with Burn, the tests a synthetic one.
pub trait Executor: Send + Sync {
    /// Size and hashes of a model preset and a data set.
    ///
    /// # Errors
    /// Unknown model or data set, unreadable weights.
    fn model_info(&self, model: &ModelSpec, data: &str) -> Result<ModelInfo>;

    /// Looks a method up and fills in the defaults of its configuration; [`crate::spec::BASE`]
    /// is a method here.
    ///
    /// # Errors
    /// Unknown method or key, with the nearest valid name.
    fn method(&self, method: &MethodSpec) -> Result<MethodInfo>;

    /// Checks a run before anything is trained: method, targets on this model, admissible shapes,
    /// data, domain and device.
    ///
    /// # Errors
    /// What was found, what was expected, the nearest valid name.
    fn validate(&self, spec: &RunSpec) -> Result<()>;

    /// Trains and evaluates; calls `observe` after steps.
    ///
    /// # Errors
    /// What failed; [`crate::Error::Run`] unless the input is at fault.
    fn execute(&self, spec: &RunSpec, observe: &mut dyn FnMut(Progress)) -> Result<Outcome>;

    /// Measures the cost of a training step; called in a process of its own.
    ///
    /// # Errors
    /// As [`Self::execute`].
    fn measure(&self, spec: &RunSpec) -> Result<Cost>;
}
