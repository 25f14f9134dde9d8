//! `adapt`: trains an adapter on a model and data from disk.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use engraft_data::glue::GlueTask;
use engraft_data::{Task, read::BadRows};
use engraft_experiment::adapt::{self, Answers, Progress, Settings, Training};
use engraft_experiment::{Error, Result};
use engraft_kernels::Quantisation;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::model::Model;
use super::params::{method, table, targets};

/// Arguments of `adapt`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: Model,
    /// What is learned: a .csv, .tsv, .jsonl or .parquet file, the directory of a task of GLUE (CoLA,
    /// SST-2, MRPC, QQP, STS-B, MNLI, QNLI, RTE, WNLI), or a directory of images by class
    #[arg(long, value_name = "FILE|DIR")]
    data: PathBuf,
    /// The task of GLUE, where the directory has another name or is that of the whole benchmark
    #[arg(long, value_name = "TASK")]
    glue: Option<String>,
    /// The method as TOML: its id and configuration keys, for example 'id = "lora", rank = 8'
    #[arg(long, value_name = "TOML")]
    method: String,
    /// Where the adapter goes: a directory that is not there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What it is evaluated on; otherwise GLUE's dev files, or a share of the data
    #[arg(long, value_name = "FILE|DIR")]
    eval: Option<PathBuf>,
    /// The share of the data that is held out for evaluation
    #[arg(long, default_value_t = 0.1)]
    hold_out: f64,
    /// What is learned, as TOML, for example 'kind = "sentence-pair", label = "gold"'; otherwise
    /// what the columns suggest. Kinds: single-sentence, sentence-pair, regression, multi-label,
    /// token-classification, causal-language, masked-language, instruction
    #[arg(long, value_name = "TOML")]
    task: Option<String>,
    /// The precision of the frozen weights: nf4, fp4, int4 or int8, or TOML such as
    /// 'format = "nf4", block = 128, double = true'; otherwise f32
    #[arg(long, value_name = "TOML")]
    base: Option<String>,
    /// The targets: all-linear, a regular expression, or a list such as '["query", "value"]'
    #[arg(long)]
    targets: Option<String>,
    /// Passes over the data
    #[arg(long, default_value_t = Training::default().epochs)]
    epochs: u64,
    /// Updates instead of passes
    #[arg(long)]
    steps: Option<u64>,
    /// Examples of a batch
    #[arg(long, default_value_t = Training::default().batch_size)]
    batch_size: usize,
    /// Parts of a batch that are computed one after the other, to save memory
    #[arg(long, default_value_t = 1)]
    accumulate: usize,
    /// Compute element-wise outputs again in the backward pass instead of keeping them; the result is
    /// the same. On the CPU it has not saved memory so far: --accumulate does
    #[arg(long)]
    recompute: bool,
    /// Largest learning rate
    #[arg(long, default_value_t = Training::default().learning_rate)]
    learning_rate: f64,
    /// Weight decay
    #[arg(long, default_value_t = Training::default().weight_decay)]
    weight_decay: f64,
    /// Most tokens of a text [default: 128, or fewer where the model has fewer positions]
    #[arg(long)]
    max_length: Option<usize>,
    /// For prompts with answers: most rows of the evaluation whose answers are generated, before and
    /// after training, to be compared with the expected ones; none at 0
    #[arg(long, default_value_t = Answers::default().rows)]
    answer_rows: usize,
    /// Most tokens of such an answer
    #[arg(long, default_value_t = Answers::default().max_new_tokens)]
    max_new_tokens: usize,
    /// Rows that may be unusable: they are reported and left out
    #[arg(long, default_value_t = 0)]
    bad_rows: usize,
    /// Seed of starting values, batches and the division of the data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Device: flex, ndarray, wgpu or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

/// Trains and prints what was done.
pub fn run(arguments: &Arguments) -> Result<()> {
    let settings = settings(arguments)?;
    let mut display = Display::new();
    let summary = adapt::adapt(&settings, &mut |progress| display.show(progress));
    display.bar.finish_and_clear();
    print!("{}", summary?.text());
    Ok(())
}

/// A bar where someone watches, lines elsewhere.
struct Display {
    bar: ProgressBar,
    watched: bool,
    /// What is counted.
    unit: &'static str,
}

impl Display {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix}, {eta} left  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            watched: std::io::stderr().is_terminal(),
            unit: "",
        }
    }

    fn show(&mut self, progress: Progress) {
        let (unit, done, all, loss, lines) = match progress {
            Progress::Evaluated { done, all } => {
                ("batches evaluated", done as u64, all as u64, None, 1)
            }
            Progress::Learned { steps, all, loss } => ("steps", steps, all, loss, 10),
        };
        if self.unit != unit {
            self.unit = unit;
            self.bar.reset();
            self.bar.set_prefix(unit);
        }
        let loss = loss.map_or(String::new(), |loss| format!("loss {loss:.4}"));
        if !self.watched && (done == all || done.is_multiple_of((all / lines).max(1))) {
            let comma = if loss.is_empty() { "" } else { ", " };
            eprintln!("  {done}/{all} {unit}{comma}{loss}");
        }
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(loss);
    }
}

fn settings(arguments: &Arguments) -> Result<Settings> {
    let targets = match &arguments.targets {
        Some(text) => Some(targets(Some(text))?),
        None => None,
    };
    Ok(Settings {
        model: arguments.model.named()?.to_owned(),
        data: arguments.data.clone(),
        glue: glue(arguments.glue.as_deref())?,
        evaluation: arguments.eval.clone(),
        hold_out: arguments.hold_out,
        method: method(&arguments.method)?,
        base: base(arguments.base.as_deref())?,
        targets,
        task: task(arguments.task.as_deref())?,
        max_length: arguments.max_length,
        bad_rows: BadRows(arguments.bad_rows),
        training: Training {
            epochs: arguments.epochs,
            steps: arguments.steps,
            batch_size: arguments.batch_size,
            accumulate: arguments.accumulate,
            recompute: arguments.recompute,
            learning_rate: arguments.learning_rate,
            weight_decay: arguments.weight_decay,
            ..Training::default()
        },
        answers: Answers {
            rows: arguments.answer_rows,
            max_new_tokens: arguments.max_new_tokens,
        },
        seed: arguments.seed,
        device: arguments.device.clone(),
        out: arguments.out.clone(),
    })
}

/// A task of GLUE by its name.
fn glue(name: Option<&str>) -> Result<Option<GlueTask>> {
    name.map(GlueTask::named)
        .transpose()
        .map_err(|error| Error::Input(format!("--glue: {error}")))
}

/// A quantisation: the name of a format, or TOML.
fn base(text: Option<&str>) -> Result<Option<Quantisation>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let how: Quantisation = match text.contains('=') {
        true => table("base", text)?,
        false => table("base", &format!("format = {:?}", text.trim()))?,
    };
    how.validate()
        .map_err(|reason| Error::Input(format!("--base: {reason}")))?;
    Ok(Some(how))
}

/// A task as TOML.
pub(super) fn task(text: Option<&str>) -> Result<Option<Task>> {
    text.map(|text| table("task", text)).transpose()
}
