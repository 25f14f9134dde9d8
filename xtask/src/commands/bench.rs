//! `bench`: the criterion binary of `benches/`.

use super::Run;
use crate::{error::XtaskError, process, workspace};

/// Run the benchmarks
#[derive(clap::Args)]
pub struct Bench {
    /// Stop each benchmark as soon as its estimate is stable
    #[arg(long)]
    quick: bool,
    /// Run only the benchmarks whose name matches this regular expression
    filter: Option<String>,
}

impl Run for Bench {
    fn run(self) -> Result<(), XtaskError> {
        if !workspace::root()?.join("benches/Cargo.toml").exists() {
            let message =
                "there are no benchmarks yet: expected the package engraft-benches in benches/";
            return Err(XtaskError::BadInput(message.into()));
        }
        let mut cargo = process::cargo();
        // The profile of tests and runs: the bench profile would compile every dependency again.
        cargo.args([
            "bench",
            "--package",
            "engraft-benches",
            "--profile",
            "dev",
            "--",
        ]);
        cargo
            .args(self.quick.then_some("--quick"))
            .args(self.filter);
        process::run(&mut cargo)
    }
}
