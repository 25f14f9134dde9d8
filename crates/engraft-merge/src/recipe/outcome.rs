//! What a merge came to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Collected;
use crate::diagnose::Diagnosis;
use crate::methods::Found;

/// What became of a module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleOutcome {
    /// `[out, in]`; 0 where only the base knows.
    pub shape: [usize; 2],
    /// |dW| in the Frobenius norm; nothing where the update scales a base that was not given.
    pub norm: Option<f64>,
    /// Rank of the factors that were written.
    pub rank: Option<usize>,
    /// |dW - written| / |dW|.
    pub error: f64,
    /// |factor-wise - exact| / |exact|, where factors were combined one by one.
    pub factor_wise: Option<f64>,
}

/// What a merge came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The adapters: name, type and weight.
    pub adapters: Vec<(String, String, f64)>,
    /// What was written.
    pub form: String,
    /// The modules.
    pub modules: BTreeMap<String, ModuleOutcome>,
    /// Bytes of the tensors that were written.
    pub bytes: u64,
    /// Parameters that were kept whole.
    pub saved: Vec<String>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// The search for the weights, if there was one.
    pub search: Option<Found>,
    /// The adapters of a collection, by the names of their directories.
    pub parts: BTreeMap<String, Part>,
    /// What a collection knows besides.
    pub collected: Option<Collected>,
    /// How the adapters lie to each other, if asked.
    pub diagnosis: Option<Diagnosis>,
}

/// One adapter of a collection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Part {
    /// Names of the adapters that it came from.
    pub adapters: Vec<String>,
    /// What was written.
    pub form: String,
    /// The modules.
    pub modules: BTreeMap<String, ModuleOutcome>,
    /// Bytes of the tensors that were written.
    pub bytes: u64,
    /// Parameters that were kept whole.
    pub saved: Vec<String>,
}

impl Part {
    /// |dW| over all modules.
    #[must_use]
    pub fn norm(&self) -> f64 {
        norm(&self.modules)
    }

    /// |dW - written| / |dW| over all modules.
    #[must_use]
    pub fn error(&self) -> f64 {
        relative(&self.modules, |module| Some(module.error))
    }
}

impl Outcome {
    /// |dW| over all modules.
    #[must_use]
    pub fn norm(&self) -> f64 {
        norm(&self.modules)
    }

    /// |dW - written| / |dW| over all modules.
    #[must_use]
    pub fn error(&self) -> f64 {
        relative(&self.modules, |module| Some(module.error))
    }

    /// |factor-wise - exact| / |exact| over all modules, where factors were combined one by one.
    #[must_use]
    pub fn factor_wise(&self) -> Option<f64> {
        let any = self
            .modules
            .values()
            .any(|module| module.factor_wise.is_some());
        any.then(|| relative(&self.modules, |module| module.factor_wise))
    }
}

fn norm(modules: &BTreeMap<String, ModuleOutcome>) -> f64 {
    let norms = modules.values().filter_map(|module| module.norm);
    norms.fold(0.0, f64::hypot)
}

fn relative(
    modules: &BTreeMap<String, ModuleOutcome>,
    error: impl Fn(&ModuleOutcome) -> Option<f64>,
) -> f64 {
    let errors = modules.values();
    let errors = errors.filter_map(|module| Some(module.norm? * error(module)?));
    match norm(modules) {
        0.0 => 0.0,
        norm => errors.fold(0.0, f64::hypot) / norm,
    }
}
