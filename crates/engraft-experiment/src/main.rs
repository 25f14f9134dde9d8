//! The command line of experiments.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use engraft_experiment::execute::BurnExecutor;

/// Compares adapters on frozen models: experiments in, tables out.
#[derive(Parser)]
#[command(name = "engraft-experiment", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train an adapter on a model and data from disk
    Adapt(commands::adapt::Arguments),
    /// Take the statistics of a task that Fisher merging and RegMean weigh updates by
    Calibrate(commands::calibrate::Arguments),
    /// Store an adapter or a checkpoint in fewer bytes
    Compress(commands::compress::Arguments),
    /// Compare with golden vectors of Hugging Face PEFT
    Conformance(commands::conformance::Arguments),
    /// Restore what was compressed
    Decompress(commands::decompress::Arguments),
    /// Run an experiment, or continue one that was interrupted
    RunExperiment(commands::run_experiment::Arguments),
    /// Show what an adapter or a checkpoint contains
    Inspect(commands::inspect::Arguments),
    /// List experiments and whether they have results
    List(commands::list::Arguments),
    /// Show every registered method
    Methods(commands::methods::Arguments),
    /// Merge adapters into one, or into a checkpoint
    Merge(commands::merge::Arguments),
    /// Fold an adapter into its model: a plain checkpoint
    MergeInto(commands::merge_into::Arguments),
    /// Answer requests with an adapter
    Predict(commands::predict::Arguments),
    /// Count what a method trains on a model, from shapes alone
    Params(commands::params::Arguments),
    /// Pre-train a model that ships with the project
    Pretrain(commands::pretrain::Arguments),
    #[command(hide = true)]
    Worker(commands::worker::Arguments),
    #[command(hide = true)]
    Measure,
}

fn main() -> ExitCode {
    let executor = BurnExecutor;
    let result = match Cli::parse().command {
        Command::Adapt(arguments) => commands::adapt::run(&arguments),
        Command::Calibrate(arguments) => commands::calibrate::run(&arguments),
        Command::Merge(arguments) => commands::merge::run(&arguments),
        Command::Compress(arguments) => commands::compress::run(&arguments),
        Command::Decompress(arguments) => commands::decompress::run(&arguments),
        Command::MergeInto(arguments) => commands::merge_into::run(&arguments),
        Command::Predict(arguments) => commands::predict::run(&arguments),
        Command::RunExperiment(arguments) => commands::run_experiment::run(&arguments, &executor),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::List(arguments) => commands::list::run(&arguments),
        Command::Conformance(arguments) => commands::conformance::run(&arguments),
        Command::Methods(arguments) => commands::methods::run(&arguments),
        Command::Params(arguments) => commands::params::run(&arguments),
        Command::Pretrain(arguments) => commands::pretrain::run(&arguments),
        Command::Worker(arguments) => commands::worker::run(&arguments, &executor),
        Command::Measure => commands::measure::run(&executor),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
