//! The record of a finished run: everything needed to trust it.

use serde::{Deserialize, Serialize};

use crate::{
    executor::{ModelInfo, Outcome},
    provenance::Provenance,
    spec::RunSpec,
};

/// The version of the file format.
pub const FORMAT: u32 = 1;

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`FORMAT`]
    pub format: u32,
    /// The hash of `spec`, and the name of the file.
    pub key: String,
    /// The resolved configuration.
    pub spec: RunSpec,
    /// Code, compiler and machine.
    pub provenance: Provenance,
    /// What the run started from.
    pub model: ModelInfo,
    /// The result.
    pub outcome: Outcome,
    /// Wall-clock seconds.
    pub wall_seconds: f64,
    /// Processor seconds, where the system tells.
    pub cpu_seconds: Option<f64>,
    /// Largest resident memory of the process in bytes, where the system tells.
    pub peak_bytes: Option<u64>,
}

impl RunRecord {
    /// Whether the record can stand for a run of the same key today: made by this version of the
    /// code from the same weights and data.
    #[must_use]
    pub fn is_current(&self, model: &ModelInfo) -> bool {
        self.provenance.engraft == env!("CARGO_PKG_VERSION") && self.model == *model
    }
}
