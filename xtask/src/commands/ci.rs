//! `ci`: every check, cheapest first, so that what fails fails early.

use super::{Run, bench::compare_counts, forward::Forward, test::Test, tidy::Tidy};
use crate::{error::XtaskError, process, workspace};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// Run every check, cheapest first: format, house rules, tests, lints, documentation, smoke run
#[derive(clap::Args)]
pub struct Ci {
    /// Also type-check the backends that are not built in by default, and count the instructions of
    /// the hot kernels
    #[arg(long)]
    full: bool,
}

impl Run for Ci {
    fn run(self) -> Result<(), XtaskError> {
        let mut steps = vec![
            Step::new("format", || cargo(&["fmt", "--all", "--check"])),
            Step::new("tidy", || Tidy {}.run()),
            Step::new("tests and doctests", || Test::all().run()),
            Step::new("clippy", || {
                cargo(&[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ])
            }),
            Step::new("documentation", || {
                let mut cargo = process::cargo();
                cargo
                    .args(["doc", "--workspace", "--no-deps"])
                    .env("RUSTDOCFLAGS", "-D warnings");
                process::run(&mut cargo)
            }),
            Step::new("quickstart, quick", smoke_run),
        ];
        if self.full {
            steps.extend([
                Step::new("types on wgpu", || process::run(&mut check("wgpu"))),
                Step::new("types on ndarray", || process::run(&mut check("ndarray"))),
                // Without DOCS_RS the build script of CUDA's compiler downloads an LLVM bundle.
                Step::new("types on cuda", || {
                    process::run(check("cuda").env("DOCS_RS", "1"))
                }),
                Step::new("operations on ndarray", || {
                    let arguments = ["test", "--package", "engraft-tensor", "--lib"];
                    cargo(&[&arguments[..], &["--features", "ndarray", "ops::"]].concat())
                }),
                Step::new("instruction counts", || compare_counts(&workspace::root()?)),
            ]);
        }
        let start = Instant::now();
        let times = run_all(steps)?;
        println!("\nci passed in {}", seconds(start.elapsed()));
        for (name, time) in times {
            println!("{:>9}  {name}", seconds(time));
        }
        Ok(())
    }
}

/// A named check.
struct Step {
    name: &'static str,
    action: Box<dyn FnOnce() -> Result<(), XtaskError>>,
}

impl Step {
    fn new(name: &'static str, action: impl FnOnce() -> Result<(), XtaskError> + 'static) -> Self {
        Self {
            name,
            action: Box::new(action),
        }
    }
}

/// Runs the steps in order until one fails; the time each took.
fn run_all(steps: Vec<Step>) -> Result<Vec<(&'static str, Duration)>, XtaskError> {
    let count = steps.len();
    let mut times = Vec::with_capacity(count);
    for (index, Step { name, action }) in steps.into_iter().enumerate() {
        println!("\n[{}/{count}] {name}", index + 1);
        let start = Instant::now();
        action().map_err(|error| XtaskError::Step {
            step: name,
            reason: error.to_string(),
        })?;
        println!(
            "[{}/{count}] {name}: {}",
            index + 1,
            seconds(start.elapsed())
        );
        times.push((name, start.elapsed()));
    }
    Ok(times)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn cargo(arguments: &[&str]) -> Result<(), XtaskError> {
    process::run(process::cargo().args(arguments))
}

fn check(feature: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args([
        "check",
        "--package",
        "engraft-experiment",
        "--features",
        feature,
    ]);
    cargo
}

/// The README's first command, made small, with its output thrown away.
fn smoke_run() -> Result<(), XtaskError> {
    let folder = tempfile::tempdir().map_err(|source| XtaskError::File {
        action: "create a folder in",
        path: std::env::temp_dir(),
        source,
    })?;
    let arguments = [
        "quickstart".into(),
        "--quick".into(),
        "--out".into(),
        folder.path().into(),
    ];
    Forward::new("run-experiment", arguments).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail() -> Result<(), XtaskError> {
        Err(XtaskError::Untidy(2))
    }

    #[test]
    fn steps_run_in_order_and_are_timed() {
        let times = run_all(vec![Step::new("a", || Ok(())), Step::new("b", || Ok(()))]).unwrap();
        assert_eq!(
            times.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn the_first_failure_stops_everything_and_is_named() {
        let steps = vec![
            Step::new("first", || Ok(())),
            Step::new("second", fail),
            Step::new("third", || panic!("a step after a failure must not run")),
        ];
        let error = run_all(steps).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ci stopped at step \"second\": tidy: 2 findings"
        );
        assert_eq!(error.exit_code(), 1);
    }
}
