//! The two programs that time a case.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cases::Case;
use crate::{error::XtaskError, process};

/// Tells the C library's allocator to keep the pages of a step's buffers for the next step, as the
/// workers of `run-experiment` are told.
const KEEP_PAGES: [(&str, &str); 2] = [
    ("MALLOC_MMAP_THRESHOLD_", "4294967296"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
];

/// What one side measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Median milliseconds.
    pub ms: f64,
    /// Least milliseconds.
    pub ms_min: f64,
    /// Most memory above the start of the case, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_delta_mb: Option<f64>,
    /// Trained numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<usize>,
}

/// Our side: a process a case.
pub struct Engraft {
    program: PathBuf,
    threads: usize,
}

impl Engraft {
    /// Builds the program that times a case.
    ///
    /// # Errors
    /// It does not compile.
    pub fn build(threads: usize) -> Result<Self, XtaskError> {
        let program = process::build("engraft-benches", ["--bin", "engraft-case"])?;
        Ok(Self { program, threads })
    }

    /// Times one case.
    ///
    /// # Errors
    /// The case is unknown or fails.
    pub fn measure(
        &self,
        kind: &str,
        what: &[String],
        runs: usize,
    ) -> Result<Measured, XtaskError> {
        let mut command = Command::new(&self.program);
        let [threads, runs] = [self.threads, runs].map(|number| number.to_string());
        command
            .envs(KEEP_PAGES)
            .args(["--threads", &threads, "--runs", &runs, kind])
            .args(what);
        let answer = process::capture(&mut command)?;
        serde_json::from_str(&answer).map_err(|error| XtaskError::Answer {
            program: process::describe(&command),
            reason: format!("{error}: {}", answer.trim()),
        })
    }
}

/// PEFT's side: one Python process that forks a child a case.
pub struct Peft {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    threads: usize,
    /// Versions of Python, torch and peft.
    pub versions: Value,
}

impl Peft {
    /// Starts Python and waits until it has imported torch and peft.
    ///
    /// # Errors
    /// It cannot be started, or lacks a package.
    pub fn start(root: &Path, python: &Path, threads: usize) -> Result<Self, XtaskError> {
        let mut command = Command::new(python);
        command
            .arg(root.join("benches/rival.py"))
            .env("OMP_NUM_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|source| XtaskError::Start {
            program: process::describe(&command),
            source,
        })?;
        let requests = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        let mut peft = Self {
            process,
            requests,
            answers,
            threads,
            versions: Value::Null,
        };
        peft.versions = peft.answer()?;
        Ok(peft)
    }

    /// Times one case.
    ///
    /// # Errors
    /// Python stopped, or the case failed there: the message is Python's.
    pub fn measure(&mut self, case: &Case) -> Result<Measured, XtaskError> {
        let words: Vec<&str> = std::iter::once(case.kind)
            .chain(case.what.iter().map(String::as_str))
            .collect();
        let request = json!({"case": words, "threads": self.threads, "runs": case.runs});
        writeln!(self.requests, "{request}")
            .and_then(|()| self.requests.flush())
            .map_err(|error| unreadable(error.to_string()))?;
        let answer = self.answer()?;
        if let Some(error) = answer["error"].as_str() {
            return Err(unreadable(format!("{}: {error}", case.name())));
        }
        serde_json::from_value(answer).map_err(|error| unreadable(error.to_string()))
    }

    fn answer(&mut self) -> Result<Value, XtaskError> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(|error| unreadable(error.to_string()))?;
        if line.is_empty() {
            let reason = "it ended; its message is above (it needs torch, peft and transformers)";
            return Err(unreadable(reason.to_owned()));
        }
        serde_json::from_str(&line).map_err(|error| unreadable(format!("{error}: {}", line.trim())))
    }
}

impl Drop for Peft {
    fn drop(&mut self) {
        // It has nothing to lose; that it is gone already is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn unreadable(reason: String) -> XtaskError {
    XtaskError::Answer {
        program: "python benches/rival.py".to_owned(),
        reason,
    }
}
