//! `merge`: adapters become one.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::merge::{self, REPORT, Watch, tables};
use engraft_experiment::{Result, render};
use indicatif::{ProgressBar, ProgressStyle};

/// Arguments of `merge`.
#[derive(Args)]
pub struct Arguments {
    /// The recipe: which adapters, how, and what becomes of them (docs: merging)
    recipe: PathBuf,
    /// Where the result goes: a directory that is not there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write report.html beside it: how the adapters lie to each other, spectra and conflicts
    #[arg(long)]
    report: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// A bar on a terminal.
struct Bar(ProgressBar);

impl Watch for Bar {
    fn exporting(&mut self, adapter: &str) {
        self.0.set_message(format!("exporting {adapter}"));
    }

    fn searching(&mut self, done: usize, all: usize) {
        self.0.set_length(all as u64);
        self.0.set_position(done as u64);
        self.0.set_message("searching weights");
    }

    fn modules(&mut self, count: usize) {
        self.0.set_position(0);
        self.0.set_length(count as u64);
    }

    fn merged(&mut self, module: &str) {
        self.0.set_message(module.to_owned());
        self.0.inc(1);
    }
}

/// Merges, and prints what came of it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}").expect("a template");
    let mut bar = Bar(ProgressBar::new(0).with_style(style));
    let outcome = merge::merge(
        &arguments.recipe,
        &arguments.out,
        arguments.report,
        &mut bar,
    );
    bar.0.finish_and_clear();
    let outcome = outcome?;
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome).expect("plain data"));
        return Ok(());
    }
    for warning in &outcome.warnings {
        eprintln!("warning: {warning}");
    }
    print!("{}", render::terminal(&tables::adapters(&outcome)));
    if let Some(table) = tables::searched(&outcome) {
        print!("{}", render::terminal(&table));
    }
    if let Some(collected) = &outcome.collected {
        print!("{}", render::terminal(&tables::parts(&outcome)));
        print!("{}", render::terminal(&tables::collected(collected)));
    }
    if !outcome.modules.is_empty() {
        print!("{}", render::terminal(&tables::modules(&outcome)));
    }
    let mebibytes = outcome.bytes as f64 / f64::from(1 << 20);
    println!(
        "{}: {}, {mebibytes:.1} MiB",
        arguments.out.display(),
        outcome.form
    );
    if arguments.report {
        println!("{}", arguments.out.join(REPORT).display());
    }
    Ok(())
}
