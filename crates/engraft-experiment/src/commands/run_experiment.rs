//! `run-experiment`

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::{
    Error, Result,
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
    /// Name of an experiment (see `list`) or path of a TOML file
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

/// Runs the experiment with workers of this program and prints the table.
pub fn run(arguments: &Arguments, executor: &dyn Executor) -> Result<()> {
    let root = workspace::current_root()?;
    let (name, path) = workspace::resolve(&root, &arguments.experiment)?;
    let experiment = Experiment::read(&path)?;
    let settings = Settings {
        options: Options {
            seeds: arguments.seeds,
            device: arguments.device.clone(),
            quick: arguments.quick,
        },
        out: arguments
            .out
            .clone()
            .unwrap_or_else(|| root.join("results")),
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
    match summary.failures.len() {
        0 => Ok(()),
        count => {
            let all: Vec<String> = summary
                .failures
                .iter()
                .map(|error| format!("\n- {error}"))
                .collect();
            Err(Error::Run(format!(
                "{count} failed; the same command tries them again and repeats nothing else{}",
                all.concat()
            )))
        }
    }
}
