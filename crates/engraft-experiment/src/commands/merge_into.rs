//! `merge-into`: a plain checkpoint with an adapter folded in.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::{Result, adapt};

use super::model::Model;

/// Arguments of `merge-into`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: Model,
    /// Directory of the adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Where the merged model goes: a directory that is not there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Merges and says where the checkpoint is.
pub fn run(arguments: &Arguments) -> Result<()> {
    let merged = adapt::merge_into(arguments.model.named()?, &arguments.adapter, &arguments.out)?;
    for note in merged.warnings {
        eprintln!("warning: {note}");
    }
    for error in merged.errors {
        println!("{error}");
    }
    println!(
        "{}: a plain checkpoint, loaded like any other",
        arguments.out.display()
    );
    Ok(())
}
