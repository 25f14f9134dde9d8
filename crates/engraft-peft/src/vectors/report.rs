//! What became of a case.

use std::fmt;

use serde::Serialize;

/// The tensor that used most of its tolerance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worst {
    /// Its name in the case.
    pub tensor: String,
    /// The largest |a - b| / (atol + rtol |b|).
    pub ratio: f64,
}

/// Whether a case passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status", content = "reason")]
pub enum Outcome {
    /// Everything agrees.
    Passed,
    /// What does not agree.
    Failed(String),
    /// What is not there yet.
    Skipped(String),
}

/// The report of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseReport {
    /// Id of the case.
    pub id: String,
    /// Method, as the vectors name it.
    pub method: String,
    /// Id of Engraft's method, once it is known.
    pub engraft: Option<String>,
    /// Whether it passed.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The tensor closest to its tolerance, or farthest beyond it.
    pub worst: Option<Worst>,
    /// Number of tensors compared.
    pub compared: usize,
    /// Tensors with a tolerance that were not compared.
    pub unchecked: Vec<String>,
    /// Warnings of the import.
    pub warnings: Vec<String>,
}

impl CaseReport {
    pub(super) fn new(id: &str, method: &str) -> Self {
        Self {
            id: id.to_owned(),
            method: method.to_owned(),
            engraft: None,
            outcome: Outcome::Passed,
            worst: None,
            compared: 0,
            unchecked: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.outcome {
            Outcome::Passed => write!(f, "passed   {}", self.id)?,
            Outcome::Failed(reason) => write!(f, "FAILED   {}: {reason}", self.id)?,
            Outcome::Skipped(reason) => write!(f, "skipped  {}: {reason}", self.id)?,
        }
        if let Some(Worst { tensor, ratio }) = &self.worst {
            write!(
                f,
                "  (largest error {ratio:.3} of its tolerance, {tensor}; {} tensors compared)",
                self.compared
            )?;
        }
        match self.unchecked.as_slice() {
            [] => Ok(()),
            unchecked => write!(f, "  (not compared: {})", unchecked.join(", ")),
        }
    }
}
