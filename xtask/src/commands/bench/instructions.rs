//! Instruction counts of the hot kernels: what a noisy machine cannot blur.
//!
//! callgrind simulates a machine without AVX-512, so that the AVX2 copies are counted. The start of
//! the program is taken off by counting it with no kernel.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{error::XtaskError, process};

/// Relative change that counts as one.
const TOLERANCE: f64 = 0.03;

type Counts = BTreeMap<String, u64>;

/// Counts every kernel; writes the counts, or compares them with the recorded ones.
///
/// # Errors
/// There is no valgrind, a kernel fails, or a count left the tolerance.
pub fn run(root: &Path, accept: bool) -> Result<(), XtaskError> {
    let program = process::build("engraft-kernels", ["--example", "hot"])?;
    let found = count_all(&program)?;
    if accept {
        return write(root, &found);
    }
    compare(&read(root)?, &found)
}

/// As [`run`], for `ci`: says so and passes where there is no valgrind.
///
/// # Errors
/// As [`run`].
pub fn compare_counts(root: &Path) -> Result<(), XtaskError> {
    let valgrind = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if valgrind.is_err() {
        println!("instruction counts: skipped, there is no valgrind here");
        return Ok(());
    }
    run(root, false)
}

fn count_all(program: &Path) -> Result<Counts, XtaskError> {
    let names = process::capture(Command::new(program).arg("list"))?;
    let start = count(program, "nothing")?;
    names
        .lines()
        .map(|name| Ok((name.to_owned(), count(program, name)?.saturating_sub(start))))
        .collect()
}

/// Instructions of one run, as callgrind reports them: `Collected : 123`.
fn count(program: &Path, kernel: &str) -> Result<u64, XtaskError> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(kernel)
        .env("RAYON_NUM_THREADS", "1");
    let output = valgrind.output().map_err(|source| XtaskError::Start {
        program: process::describe(&valgrind),
        source,
    })?;
    let report = String::from_utf8_lossy(&output.stderr);
    collected(&report)
        .filter(|_| output.status.success())
        .ok_or_else(|| XtaskError::Answer {
            program: process::describe(&valgrind),
            reason: report.lines().last().unwrap_or("no report").to_owned(),
        })
}

fn collected(report: &str) -> Option<u64> {
    let (_, count) = report
        .lines()
        .find_map(|line| line.split_once("Collected :"))?;
    count.trim().parse().ok()
}

fn path(root: &Path) -> PathBuf {
    root.join("benches/instructions.toml")
}

fn write(root: &Path, counts: &Counts) -> Result<(), XtaskError> {
    let header = "# Instructions of the hot kernels on the AVX2 path, under callgrind;\n\
                  # `cargo xtask bench --instructions --accept` writes this file.\n\n";
    let body = toml::to_string(counts).expect("names and numbers");
    let path = path(root);
    let temporary = path.with_extension("toml.new");
    fs::write(&temporary, format!("{header}{body}"))
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| XtaskError::File {
            action: "write",
            path,
            source,
        })
}

fn read(root: &Path) -> Result<Counts, XtaskError> {
    let path = path(root);
    let text = fs::read_to_string(&path).map_err(|source| XtaskError::File {
        action: "read",
        path: path.clone(),
        source,
    })?;
    toml::from_str(&text)
        .map_err(|error| XtaskError::BadInput(format!("{}: {error}", path.display())))
}

fn compare(expected: &Counts, found: &Counts) -> Result<(), XtaskError> {
    let names: Vec<&String> = expected
        .keys()
        .chain(found.keys().filter(|name| !expected.contains_key(*name)))
        .collect();
    let mut left = Vec::new();
    for name in names {
        let change = match (expected.get(name), found.get(name)) {
            (Some(expected), Some(found)) => *found as f64 / (*expected).max(1) as f64 - 1.0,
            _ => f64::INFINITY,
        };
        println!(
            "{name:<28} {:>13} {:>+8.2}%",
            found.get(name).map_or("gone".to_owned(), u64::to_string),
            100.0 * change
        );
        if change.abs() > TOLERANCE {
            left.push(name.as_str());
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(XtaskError::BadInput(format!(
        "the instructions of {} are not within {:.0}% of benches/instructions.toml; if that is meant, \
         record them: cargo xtask bench --instructions --accept",
        left.join(", "),
        100.0 * TOLERANCE
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_a_regression_is_named() {
        let report = "==1== Events    : Ir\n==1== Collected : 123456\n";
        assert_eq!(collected(report), Some(123_456));
        let counts = |pairs: &[(&str, u64)]| -> Counts {
            pairs
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let expected = counts(&[("gelu", 100), ("softmax", 100)]);
        assert!(compare(&expected, &counts(&[("gelu", 102), ("softmax", 98)])).is_ok());
        let error = compare(&expected, &counts(&[("gelu", 104), ("softmax", 98)])).unwrap_err();
        assert!(error.to_string().contains("of gelu are"), "{error}");
        let error = compare(&expected, &counts(&[("gelu", 100)])).unwrap_err();
        assert!(error.to_string().contains("softmax"), "{error}");
    }
}
