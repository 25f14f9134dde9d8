//! The cost of methods: one process after the other, never while anything else runs.

use crate::{
    Error,
    error::Result,
    executor::{Cost, Executor},
    pool::Launcher,
    spec::RunSpec,
    store::{Loaded, Store},
};

/// The cost of a run from the store or, when it is not there or `fresh` is set, measured now.
///
/// # Errors
/// When it cannot be measured or stored.
pub fn cost(spec: &RunSpec, fresh: bool, store: &Store, launcher: &dyn Launcher) -> Result<Cost> {
    let key = format!("measure-{}", spec.key());
    if !fresh && let Loaded::Found(cost) = store.load(&key)? {
        return Ok(cost);
    }
    let cost = launcher.measure(spec)?;
    store.save(&key, &cost)?;
    Ok(cost)
}

/// Reads a run specification from a line of text, measures it and returns the line to print.
///
/// # Errors
/// When the line is not a specification or the measurement fails.
pub fn answer(executor: &dyn Executor, line: &str) -> Result<String> {
    let spec: RunSpec = serde_json::from_str(line)
        .map_err(|error| Error::Input(format!("not a run specification: {error}")))?;
    let cost = executor.measure(&spec)?;
    serde_json::to_string(&cost).map_err(|error| Error::Run(error.to_string()))
}
