//! `predict`: answers of an adapted model, one JSON object a line.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use engraft_experiment::adapt::{self, Requests};
use engraft_experiment::{Error, Result};
use engraft_models::{Generation, Sampling};

use super::adapt::task;

/// Arguments of `predict`.
#[derive(Args)]
pub struct Arguments {
    /// Directory of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Directory of the adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Requests: a .csv, .tsv, .jsonl or .parquet file, an image, or a directory of images
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the answers go; standard output by default
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the adapter was trained for, as TOML, if its directory does not say so
    #[arg(long, value_name = "TOML")]
    task: Option<String>,
    /// Requests at once
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Most tokens that follow a prompt
    #[arg(long, default_value_t = Generation::default().max_new_tokens)]
    max_new_tokens: usize,
    /// Temperature of what follows; the most likely tokens at 0
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Device: flex, ndarray, wgpu or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

/// Answers every request.
pub fn run(arguments: &Arguments) -> Result<()> {
    let requests = Requests {
        model: arguments.model.clone(),
        adapter: arguments.adapter.clone(),
        input: arguments.input.clone(),
        task: task(arguments.task.as_deref())?,
        batch_size: arguments.batch_size,
        generation: Generation {
            max_new_tokens: arguments.max_new_tokens,
            sampling: Sampling {
                temperature: arguments.temperature,
                ..Sampling::default()
            },
            ..Generation::default()
        },
        device: arguments.device.clone(),
    };
    match &arguments.out {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            answers(&requests, &mut out)?;
            out.flush().map_err(|error| Error::Input(error.to_string()))
        }
        Some(path) => {
            let mut text = Vec::new();
            answers(&requests, &mut text)?;
            engraft_core::file::write_atomically(path, &text)
                .map_err(|error| Error::Input(error.to_string()))
        }
    }
}

fn answers(requests: &Requests, out: &mut impl Write) -> Result<()> {
    adapt::predict(requests, |answer| {
        let line = serde_json::to_string(&answer).expect("plain data");
        writeln!(out, "{line}").map_err(|error| Error::Input(format!("cannot write: {error}")))
    })
}
