//! `measure`: a hidden command that measures one run for a parent process.

use std::io;

use engraft_experiment::{Error, Result, executor::Executor, measure};

/// Reads a run specification, prints its cost.
pub fn run(executor: &dyn Executor) -> Result<()> {
    let line = io::read_to_string(io::stdin()).map_err(|error| Error::Input(error.to_string()))?;
    println!("{}", measure::answer(executor, &line)?);
    Ok(())
}
