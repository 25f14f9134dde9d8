//! The commands of the workspace: `cargo xtask --help`.
//!
//! One file a command, each behind [`commands::Run`]. No Burn here, so that the commands are built
//! in seconds; what needs Burn is forwarded to the `engraft-experiment` binary.

mod commands;
mod error;
mod metadata;
mod names;
mod process;
mod rules;
mod workspace;

use clap::Parser;
use commands::{Command, Run};
use std::process::ExitCode;

/// The commands of the Engraft workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.already_reported() {
                eprintln!("error: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
