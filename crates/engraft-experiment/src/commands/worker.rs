//! `worker`: a hidden command that does runs for a parent process.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::{
    Result, executor::Executor, provenance::Provenance, store::Store, worker, workspace,
};

/// Arguments of `worker`.
#[derive(Args)]
pub struct Arguments {
    /// Directory of records
    #[arg(long)]
    runs: PathBuf,
}

/// Serves until the input ends.
pub fn run(arguments: &Arguments, executor: &dyn Executor) -> Result<()> {
    let store = Store::open(&arguments.runs)?;
    let provenance = Provenance::collect(&workspace::current_root()?);
    worker::serve(executor, &store, &provenance)
}
