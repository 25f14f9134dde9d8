//! `predict`: answers of an adapted model, one JSON object a line.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use engraft_experiment::adapt::{self, Requests, Scores};
use engraft_experiment::{Error, Result};
use engraft_models::Sampling;

use super::adapt::task;
use super::model::Model;

/// Arguments of `predict`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: Model,
    /// Directory of the adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Requests: a .csv, .tsv, .jsonl or .parquet file, an image, or a directory of images or of
    /// classes of images. Where it has the answers that are expected, metrics follow on standard error
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the answers go; standard output by default
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the adapter was trained for, as TOML, if its directory does not say so, for example
    /// 'kind = "single-sentence", labels = ["no", "yes"]'
    #[arg(long, value_name = "TOML")]
    task: Option<String>,
    /// Requests at once
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Most tokens that follow a prompt [default: as when the adapter was evaluated]
    #[arg(long)]
    max_new_tokens: Option<usize>,
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
        model: arguments.model.named()?.to_owned(),
        adapter: arguments.adapter.clone(),
        input: arguments.input.clone(),
        task: task(arguments.task.as_deref())?,
        batch_size: arguments.batch_size,
        max_new_tokens: arguments.max_new_tokens,
        sampling: Sampling {
            temperature: arguments.temperature,
            ..Sampling::default()
        },
        device: arguments.device.clone(),
    };
    let failed = |error: &dyn Display| Error::Input(format!("cannot write: {error}"));
    let scores = match &arguments.out {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            let scores = answers(&requests, &mut out)?;
            out.flush().map_err(|error| failed(&error))?;
            scores
        }
        Some(path) => {
            adapt::check_writable(path)?;
            let mut text = Vec::new();
            let scores = answers(&requests, &mut text)?;
            engraft_core::file::write_atomically(path, &text).map_err(|error| failed(&error))?;
            scores
        }
    };
    eprint!("{scores}");
    Ok(())
}

fn answers(requests: &Requests, out: &mut impl Write) -> Result<Scores> {
    adapt::predict(requests, |answer| {
        let line = serde_json::to_string(&answer).expect("plain data");
        writeln!(out, "{line}").map_err(|error| Error::Input(format!("cannot write: {error}")))
    })
}
