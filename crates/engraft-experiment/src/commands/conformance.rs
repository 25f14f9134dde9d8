//! `conformance`: Engraft against golden vectors of Hugging Face PEFT.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::{Error, Result};
use engraft_peft::vectors::{self, Outcome};

/// Arguments of `conformance`.
#[derive(Args)]
pub struct Arguments {
    /// Directory of vectors, with its index.json
    #[arg(long)]
    vectors: PathBuf,
    /// Only the cases of this method, by its id here or its name in the vectors
    #[arg(long)]
    method: Option<String>,
    /// Device
    #[arg(long, default_value = "flex")]
    device: String,
    /// Print one JSON object a case
    #[arg(long)]
    json: bool,
}

/// Prints a line a case and the sums; fails when a case fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    let input = |error: &dyn ToString| Error::Input(error.to_string());
    let device = engraft_tensor::device(&arguments.device).map_err(|error| input(&error))?;
    let reports = vectors::run(
        &arguments.vectors,
        arguments.method.as_deref(),
        &device,
        &engraft::method,
    )
    .map_err(|error| input(&error))?;
    if let (Some(method), true) = (&arguments.method, reports.is_empty()) {
        return Err(Error::Input(format!(
            "no case of method `{method}` in {}",
            arguments.vectors.display()
        )));
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for report in &reports {
        match report.outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
        match arguments.json {
            true => println!("{}", serde_json::to_string(report).expect("plain data")),
            false => println!("{report}"),
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    match failed {
        0 => Ok(()),
        _ => Err(Error::Run(format!(
            "{failed} of {} cases disagree with their vectors",
            reports.len()
        ))),
    }
}
