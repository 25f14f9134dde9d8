//! The commands: one file each, one line each in [`Command`].

mod bench;
mod ci;
mod forward;
mod new_method;
mod test;
mod tidy;

use crate::error::XtaskError;
use clap::Subcommand;

/// Something that can be run.
pub trait Run {
    /// Runs it to its end.
    ///
    /// # Errors
    /// It failed; the error knows its message and the exit code.
    fn run(self) -> Result<(), XtaskError>;
}

/// Every command. Those of the experiment binary pass their arguments on unread, `--help`
/// included.
#[derive(Subcommand)]
pub enum Command {
    /// Run an experiment, by name or path, and print its table
    #[command(disable_help_flag = true)]
    RunExperiment(forward::Arguments),
    /// List the experiments and whether they have results
    #[command(disable_help_flag = true)]
    List(forward::Arguments),
    /// List every registered method with what it declares about itself
    #[command(disable_help_flag = true)]
    Methods(forward::Arguments),
    /// Count the trainable parameters of a method on a model, from shapes alone
    #[command(disable_help_flag = true)]
    Params(forward::Arguments),
    /// Train an adapter on a model and data from disk, evaluate it and save it for Python
    #[command(disable_help_flag = true)]
    Adapt(forward::Arguments),
    /// Answer requests with an adapter, one JSON object a line
    #[command(disable_help_flag = true)]
    Predict(forward::Arguments),
    /// Take the statistics of a task that Fisher merging and RegMean weigh updates by
    #[command(disable_help_flag = true)]
    Calibrate(forward::Arguments),
    /// Merge adapters into one, or into a checkpoint, as a recipe says
    #[command(disable_help_flag = true)]
    Merge(forward::Arguments),
    /// Fold an adapter into its model: a plain checkpoint that transformers loads
    #[command(disable_help_flag = true)]
    MergeInto(forward::Arguments),
    /// Store an adapter or a checkpoint in fewer bytes
    #[command(disable_help_flag = true)]
    Compress(forward::Arguments),
    /// Restore what was compressed
    #[command(disable_help_flag = true)]
    Decompress(forward::Arguments),
    /// Show what an adapter or a checkpoint contains, in one screen
    #[command(disable_help_flag = true)]
    Inspect(forward::Arguments),
    /// Compare the methods with stored reference vectors
    #[command(disable_help_flag = true)]
    Conformance(forward::Arguments),
    /// Train the small models that ship with the project
    #[command(disable_help_flag = true)]
    Pretrain(forward::Arguments),
    /// Write the files of a new method and register it
    NewMethod(new_method::NewMethod),
    /// Run the benchmarks
    Bench(bench::Bench),
    /// Run every test of the workspace
    Test(test::Test),
    /// Check the house rules
    Tidy(tidy::Tidy),
    /// Run every check, cheapest first
    Ci(ci::Ci),
}

impl Run for Command {
    fn run(self) -> Result<(), XtaskError> {
        match self {
            Self::RunExperiment(arguments) => arguments.of("run-experiment").run(),
            Self::List(arguments) => arguments.of("list").run(),
            Self::Methods(arguments) => arguments.of("methods").run(),
            Self::Params(arguments) => arguments.of("params").run(),
            Self::Adapt(arguments) => arguments.of("adapt").run(),
            Self::Predict(arguments) => arguments.of("predict").run(),
            Self::Calibrate(arguments) => arguments.of("calibrate").run(),
            Self::Merge(arguments) => arguments.of("merge").run(),
            Self::MergeInto(arguments) => arguments.of("merge-into").run(),
            Self::Compress(arguments) => arguments.of("compress").run(),
            Self::Decompress(arguments) => arguments.of("decompress").run(),
            Self::Inspect(arguments) => arguments.of("inspect").run(),
            Self::Conformance(arguments) => arguments.of("conformance").run(),
            Self::Pretrain(arguments) => arguments.of("pretrain").run(),
            Self::NewMethod(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Test(command) => command.run(),
            Self::Tidy(command) => command.run(),
            Self::Ci(command) => command.run(),
        }
    }
}
