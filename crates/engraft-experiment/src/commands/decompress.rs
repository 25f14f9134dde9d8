//! `decompress`: what was compressed, as it was or nearly so.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::Result;
use engraft_merge::compress::decompress;

use super::compress::{input, print};

/// Arguments of `decompress`.
#[derive(Args)]
pub struct Arguments {
    /// A directory that `compress` wrote, or the file within
    input: PathBuf,
    /// Where the result goes: a directory that is not there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What it was compressed against, if there was such
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// Print every tensor
    #[arg(long)]
    tensors: bool,
}

/// Decompresses and prints sizes and errors.
pub fn run(arguments: &Arguments) -> Result<()> {
    let base = arguments.base.as_deref();
    let report = decompress(&arguments.input, &arguments.out, base).map_err(input)?;
    print(&report, arguments.tensors);
    println!("{}", arguments.out.display());
    Ok(())
}
