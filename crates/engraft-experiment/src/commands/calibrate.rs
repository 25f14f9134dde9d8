//! `calibrate`: statistics of a task, for merges that weigh updates by them.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::adapt::Sample;
use engraft_experiment::{Result, merge};

use super::adapt::task;
use super::model::Model;

/// Arguments of `calibrate`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: Model,
    /// Directory of the adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Examples of its task: a .csv, .tsv, .jsonl or .parquet file, or a directory of images by class
    #[arg(long, value_name = "FILE|DIR")]
    data: PathBuf,
    /// Where the statistics go: a .safetensors file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Examples at most
    #[arg(long, default_value_t = 256)]
    examples: usize,
    /// What the adapter was trained for, as TOML, if its directory does not say so
    #[arg(long, value_name = "TOML")]
    task: Option<String>,
    /// Most tokens of a text [default: as the adapter was trained]
    #[arg(long)]
    max_length: Option<usize>,
    /// Device: flex, ndarray, wgpu or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

/// Calibrates and says what was written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let sample = Sample {
        model: arguments.model.named()?.to_owned(),
        adapter: arguments.adapter.clone(),
        data: arguments.data.clone(),
        task: task(arguments.task.as_deref())?,
        max_length: arguments.max_length,
        examples: arguments.examples,
        batch_size: 1,
    };
    let found = merge::calibrate(&sample, &arguments.device, &arguments.out)?;
    for warning in found.warnings {
        eprintln!("warning: {warning}");
    }
    println!(
        "{}: Gram matrices and Fisher information of {} modules on {} examples",
        arguments.out.display(),
        found.modules.len(),
        found.examples
    );
    Ok(())
}
