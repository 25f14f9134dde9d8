//! `run-experiment`

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use engraft_experiment::{
    Error, Result,
    composition::{
        self, run_composition,
        schema::{Composition, is_composition},
    },
    counts::{self, report, resolve::Presets, schema::is_counts},
    executor::Executor,
    plan::Options,
    pool::Processes,
    process,
    progress::Meter,
    render,
    run::{Settings, run_experiment},
    schema::Experiment,
    workspace,
};

/// Arguments of `run-experiment`.
#[derive(Args)]
pub struct Arguments {
    /// Name of an experiment (see `list`), path of a TOML file, or `counts` for all parameter tables
    experiment: String,
    /// Number of seeds instead of those in the file
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    seeds: Option<usize>,
    /// Device instead of the one in the file: flex, ndarray, wgpu or cuda
    #[arg(long)]
    device: Option<String>,
    /// Few steps, few seeds, one domain, no learning-rate trials: a smoke test of seconds
    #[arg(long)]
    quick: bool,
    /// Directory of results [default: results in the workspace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs at once [default: number of cores]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    jobs: Option<usize>,
    /// Repeat runs that are finished
    #[arg(long)]
    fresh: bool,
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

/// The name that stands for all parameter tables.
const ALL_COUNTS: &str = "counts";

/// Runs the experiment with workers of this program and prints the table.
pub fn run(arguments: &Arguments, executor: &dyn Executor) -> Result<()> {
    let root = workspace::current_root()?;
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| root.join("results"));
    if arguments.experiment == ALL_COUNTS {
        let names = counts::names(&root)?;
        let files = names
            .into_iter()
            .map(|name| (name.clone(), workspace::file(&root, &name)));
        return run_counts(arguments, &files.collect::<Vec<_>>(), &out);
    }
    let (name, path) = workspace::resolve(&root, &arguments.experiment)?;
    let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
    if is_counts(&text) {
        return run_counts(arguments, &[(name, path)], &out);
    }
    if is_composition(&text) {
        return run_sums(arguments, &name, &Composition::parse(&path, text)?, out);
    }
    let experiment = Experiment::parse(&path, text)?;
    let settings = Settings {
        options: Options {
            seeds: arguments.seeds,
            device: arguments.device.clone(),
            quick: arguments.quick,
        },
        out,
        jobs: arguments.jobs.unwrap_or_else(process::cores),
        fresh: arguments.fresh,
    };
    let program = std::env::current_exe()
        .map_err(|error| Error::Input(format!("cannot find this program: {error}")))?;
    let launcher = Processes {
        program,
        worker: vec![
            "worker".into(),
            "--runs".into(),
            Settings::records(&settings.out).into(),
        ],
        measure: vec!["measure".into()],
    };
    let meter = Meter::new(0);
    let summary = run_experiment(&name, &experiment, &settings, executor, &launcher, &meter)?;
    println!("{}", render::terminal(&summary.table));
    for file in &summary.files {
        println!("{}", file.display());
    }
    finished(&summary.failures)
}

/// Runs an experiment of the arithmetic of adapters.
fn run_sums(arguments: &Arguments, name: &str, file: &Composition, out: PathBuf) -> Result<()> {
    let settings = composition::Settings {
        seeds: arguments.seeds,
        device: arguments.device.clone(),
        quick: arguments.quick,
        out,
        jobs: arguments.jobs.unwrap_or_else(process::cores),
        fresh: arguments.fresh,
    };
    let summary = run_composition(name, file, &settings, &Meter::new(0))?;
    for table in &summary.tables {
        println!("{}", render::terminal(table));
    }
    for file in &summary.files {
        println!("{}", file.display());
    }
    finished(&summary.failures)
}

/// An error of all failures, if there are any.
fn finished(failures: &[Error]) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = failures
        .iter()
        .map(|error| format!("\n- {error}"))
        .collect();
    Err(Error::Run(format!(
        "{} failed; the same command tries them again and repeats nothing else{}",
        failures.len(),
        all.concat()
    )))
}

/// Prints parameter tables as Markdown and writes them.
fn run_counts(arguments: &Arguments, files: &[(String, PathBuf)], out: &Path) -> Result<()> {
    if arguments.seeds.is_some() || arguments.device.is_some() || arguments.quick {
        return Err(Error::Input(
            "parameter tables follow from shapes: they have no --seeds, --device or --quick"
                .to_owned(),
        ));
    }
    let mut presets = Presets::default();
    let mut verdicts = Vec::new();
    for (name, path) in files {
        let report = report::report(name, path, out, &mut presets)?;
        println!("{}", render::markdown(&report.table));
        for file in &report.files {
            println!("{}", file.display());
        }
        println!();
        verdicts.extend(report.verdicts);
    }
    println!("All tables: {}", report::summary(&verdicts));
    Ok(())
}
