//! `list`

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::{Result, list, workspace};

/// Arguments of `list`.
#[derive(Args)]
pub struct Arguments {
    /// Directory of results [default: results in the workspace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints the list.
pub fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::current_root()?;
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| root.join("results"));
    print!("{}", list::text(&list::entries(&root, &out)));
    Ok(())
}
