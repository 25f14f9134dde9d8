//! A worker: does runs one after the other and writes their records.
//!
//! As a process it reads run specifications as JSON lines from its standard input and answers with
//! JSON lines on its standard output. It ends when its input does, so that no worker outlives a
//! killed parent.

use std::{
    io::{BufRead, Write},
    process,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    executor::{Executor, Progress},
    process as machine,
    provenance::Provenance,
    record::{FORMAT, RunRecord},
    spec::RunSpec,
    store::Store,
};

/// An answer of a worker process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The run goes on.
    Progress(Progress),
    /// The record is written.
    Done,
    /// The run failed.
    Failed(String),
    /// The record could not be written: no further run could be either.
    Unwritable(String),
}

/// Does a run and writes its record. `writing` is held while the file is written.
///
/// # Errors
/// What the executor reports; [`Error::Io`] when the record cannot be written.
pub fn perform(
    executor: &dyn Executor,
    store: &Store,
    provenance: &Provenance,
    writing: &Mutex<()>,
    spec: &RunSpec,
    observe: &mut dyn FnMut(Progress),
) -> Result<()> {
    let model = executor.model_info(&spec.model, &spec.task.data)?;
    machine::reset_peak();
    let (start, cpu) = (Instant::now(), machine::cpu_seconds());
    let outcome = executor.execute(spec, observe)?;
    let record = RunRecord {
        format: FORMAT,
        key: spec.key(),
        spec: spec.clone(),
        provenance: provenance.clone(),
        model,
        outcome,
        wall_seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: machine::cpu_seconds()
            .zip(cpu)
            .map(|(now, before)| now - before),
        peak_bytes: machine::peak_resident_bytes(),
    };
    let _guard = writing
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    store.save(&record.key, &record)
}

/// Serves run specifications from standard input until it ends.
///
/// # Errors
/// When a request is not a run specification or the answer cannot be written.
pub fn serve(executor: &dyn Executor, store: &Store, provenance: &Provenance) -> Result<()> {
    let writing = Arc::new(Mutex::new(()));
    for line in requests(Arc::clone(&writing)) {
        let spec: RunSpec = serde_json::from_str(&line)
            .map_err(|error| Error::Input(format!("not a run specification: {error}")))?;
        let mut last = Instant::now();
        let mut observe = |progress| {
            const PAUSE: Duration = Duration::from_millis(200);
            if last.elapsed() >= PAUSE {
                last = Instant::now();
                // A parent that no longer listens also ends the input, which ends this process.
                let _ = answer(&Answer::Progress(progress));
            }
        };
        let reply = match perform(executor, store, provenance, &writing, &spec, &mut observe) {
            Ok(()) => Answer::Done,
            Err(
                error @ Error::Io {
                    action: "write", ..
                },
            ) => Answer::Unwritable(error.to_string()),
            Err(error) => Answer::Failed(error.to_string()),
        };
        answer(&reply).map_err(|error| Error::Run(format!("the parent is gone: {error}")))?;
    }
    Ok(())
}

/// Lines of standard input, read by a thread of their own: the end of the input ends the process
/// even in the middle of a run, though not in the middle of writing a record.
fn requests(writing: Arc<Mutex<()>>) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin()
            .lock()
            .lines()
            .map_while(std::io::Result::ok)
        {
            if send.send(line).is_err() {
                return;
            }
        }
        let _guard = writing.lock();
        process::exit(0);
    });
    receive
}

fn answer(answer: &Answer) -> std::io::Result<()> {
    let mut text = serde_json::to_string(answer)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
