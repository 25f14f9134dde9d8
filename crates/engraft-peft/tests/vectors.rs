//! The golden vectors of PEFT, on every method that Engraft has.

use std::path::Path;

use burn::tensor::Device;
use engraft_core::{AnyMethod, MethodEntry, Result, unknown_method};
use engraft_peft::vectors::{self, CaseReport, Outcome};
use serde_json::Value;

const METHODS: [MethodEntry; 3] = [
    MethodEntry::of::<engraft_lowrank::DoraConfig>(),
    MethodEntry::of::<engraft_lowrank::LoraConfig>(),
    MethodEntry::of::<engraft_lowrank::VeraConfig>(),
];

fn method(id: &str, config: &Value) -> Result<AnyMethod> {
    let entry = METHODS.iter().find(|entry| entry.meta.id == id);
    entry.ok_or_else(|| unknown_method(id, METHODS.iter().map(|entry| entry.meta.id)))?.parse(config)
}

#[test]
fn all_cases() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let reports = vectors::run(&directory, None, &Device::default(), &method).unwrap();
    reports.iter().for_each(|report| println!("{report}"));
    let failed: Vec<&CaseReport> = reports.iter().filter(|report| matches!(report.outcome, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), reports.len());
}
