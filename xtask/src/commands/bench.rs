//! `bench`: criterion, the comparison with PEFT, growth and instruction counts.

mod cases;
mod compare;
mod growth;
mod instructions;
mod page;
mod records;
mod sides;

use std::path::PathBuf;

use super::Run;
use crate::{error::XtaskError, process, workspace};

pub use instructions::compare_counts;

/// Run the benchmarks
#[derive(clap::Args)]
pub struct Bench {
    /// Time the same cases here and in Hugging Face PEFT, in turn, with this Python, and write
    /// docs/performance.md
    #[arg(long, value_name = "PYTHON")]
    against_peft: Option<PathBuf>,
    /// Time how costs grow with width, rank, block size, tokens and adapters, and write
    /// docs/performance.md
    #[arg(long)]
    growth: bool,
    /// Count the instructions of the hot kernels under callgrind and compare them with
    /// benches/instructions.toml
    #[arg(long)]
    instructions: bool,
    /// With --instructions: write the counts there instead
    #[arg(long, requires = "instructions")]
    accept: bool,
    /// Pairs of runs of a case
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads on both sides
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop each criterion benchmark as soon as its estimate is stable
    #[arg(long)]
    quick: bool,
    /// Only benchmarks or cases whose name contains this
    filter: Option<String>,
}

impl Run for Bench {
    fn run(self) -> Result<(), XtaskError> {
        let root = workspace::root()?;
        if !root.join("benches/Cargo.toml").exists() {
            let message =
                "there are no benchmarks yet: expected the package engraft-benches in benches/";
            return Err(XtaskError::BadInput(message.into()));
        }
        let filter = self.filter.as_deref();
        if self.instructions {
            return instructions::run(&root, self.accept);
        }
        if let Some(python) = &self.against_peft {
            compare::run(&root, python, [self.rounds, self.threads], filter)?;
        }
        if self.growth {
            growth::run(&root, self.threads, filter)?;
        }
        if self.against_peft.is_some() || self.growth {
            return page::write(&root);
        }
        criterion(self.quick, filter)
    }
}

/// The criterion binary, in the profile of tests and runs: the bench profile would compile every
/// dependency again.
fn criterion(quick: bool, filter: Option<&str>) -> Result<(), XtaskError> {
    let mut cargo = process::cargo();
    cargo.args([
        "bench",
        "--package",
        "engraft-benches",
        "--profile",
        "dev",
        "--",
    ]);
    cargo.args(quick.then_some("--quick")).args(filter);
    process::run(&mut cargo)
}
