//! Conformance: golden vectors computed by PEFT, run on Engraft.
//!
//! A case is a small network, an adapter in PEFT's files, and what PEFT computed with it. The
//! adapter is imported, and outputs, the disabled output, merged weights and gradients are compared
//! with the tolerance that the case states; then the adapter is written and read again, which must
//! give back its tensors bit by bit. The format is described in `vectors/README.md` of this crate.

mod allocator;
mod case;
mod checks;
mod combined;
mod layers;
mod models;
mod net;
mod report;

use std::path::Path;

use burn::tensor::Device;
use engraft_core::AnyMethod;
use serde_json::Value;

pub use report::{CaseReport, Outcome, Worst};

use crate::error::{Error, Result};
use case::{Case, Entry};

/// Makes a method from its id and configuration: a registry's function.
pub type Registry<'a> = &'a dyn Fn(&str, &Value) -> engraft_core::Result<AnyMethod>;

/// Runs the cases that `index.json` of a directory lists, in f32 on a device without autodiff (it
/// is added here). `method` keeps the cases of one method, as the vectors or as Engraft name it.
///
/// # Errors
/// A directory without a readable `index.json`. What is wrong with one case is in its report.
pub fn run(
    directory: &Path,
    method: Option<&str>,
    device: &Device,
    registry: Registry,
) -> Result<Vec<CaseReport>> {
    let device = device.clone().autodiff();
    let entries = case::index(directory)?;
    let reports = entries
        .iter()
        .map(|entry| run_case(directory, entry, &device, registry));
    Ok(reports
        .filter(|report| {
            method.is_none_or(|method| {
                report.method == method || report.engraft.as_deref() == Some(method)
            })
        })
        .collect())
}

fn run_case(directory: &Path, entry: &Entry, device: &Device, registry: Registry) -> CaseReport {
    let mut report = CaseReport::new(&entry.id, &entry.method);
    let outcome = match unsupported_kind(&entry.kind) {
        Some(reason) => Err(Stop::Skip(reason.to_owned())),
        None if entry.kind == models::BASE => models::base(directory, entry, device, &mut report),
        None if entry.kind == models::ADAPTER => {
            models::adapter(directory, entry, device, registry, &mut report)
        }
        None if [combined::WEIGHTED, combined::CONVERT].contains(&entry.kind.as_str()) => {
            combined::run(directory, entry, device, registry, &mut report)
        }
        None => Case::read(directory, entry)
            .map_err(Stop::from)
            .and_then(|case| match entry.kind.as_str() {
                allocator::KIND => allocator::run(&case, device, registry, &mut report),
                _ => layers::run(&case, device, registry, &mut report),
            }),
    };
    report.outcome = match outcome {
        Ok(()) => Outcome::Passed,
        Err(Stop::Skip(reason)) => Outcome::Skipped(reason),
        Err(Stop::Fail(reason)) => Outcome::Failed(reason),
    };
    report
}

/// Why cases of a kind are not run.
fn unsupported_kind(kind: &str) -> Option<&'static str> {
    match kind {
        "layer"
        | "multi"
        | "mixed_batch"
        | allocator::KIND
        | combined::CONVERT
        | combined::WEIGHTED
        | models::BASE
        | models::ADAPTER => None,
        "arrow" => Some("routing between adapters is not supported yet"),
        _ => Some("this kind of case is not supported yet"),
    }
}

/// Why a case ended early.
#[derive(Debug)]
enum Stop {
    /// Something it needs is not there yet.
    Skip(String),
    /// It is wrong.
    Fail(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownType { .. } | Error::Unsupported(_) => Self::Skip(error.to_string()),
            Error::Core(engraft_core::Error::UnknownMethod { found, .. }) => {
                Self::Skip(format!("method `{found}` is not registered yet"))
            }
            other => Self::Fail(other.to_string()),
        }
    }
}
