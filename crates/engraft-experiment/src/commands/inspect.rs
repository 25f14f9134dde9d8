//! `inspect`: what an adapter or a checkpoint contains.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::{Result, inspect};

/// Arguments of `inspect`.
#[derive(Args)]
pub struct Arguments {
    /// A directory with an adapter or with a model, or a safetensors file
    path: PathBuf,
}

/// Prints one screen.
pub fn run(arguments: &Arguments) -> Result<()> {
    print!("{}", inspect::inspect(&arguments.path)?.screen());
    Ok(())
}
