//! Many runs at once: a queue of runs and several workers.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{
    error::{Error, Result},
    executor::{Cost, Executor, Progress},
    provenance::Provenance,
    spec::RunSpec,
    store::Store,
    worker::{self, Answer},
};

/// Does runs one after the other.
pub trait Worker {
    /// Does a run and leaves its record in the store.
    ///
    /// # Errors
    /// [`Error::WorkerLost`] when the worker cannot go on, [`Error::Io`] when the record cannot be
    /// written, otherwise what went wrong in the run.
    fn run(&mut self, spec: &RunSpec, observe: &mut dyn FnMut(Progress)) -> Result<()>;
}

/// Starts workers and measurements.
pub trait Launcher: Sync {
    /// Starts a worker that writes to the store.
    ///
    /// # Errors
    /// When it cannot be started.
    fn worker<'a>(&'a self, store: &'a Store) -> Result<Box<dyn Worker + 'a>>;

    /// Measures the cost of a run while nothing else runs.
    ///
    /// # Errors
    /// When it cannot be measured.
    fn measure(&self, spec: &RunSpec) -> Result<Cost>;
}

/// What happens in the pool.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A run goes on.
    Progress(&'a RunSpec, Progress),
    /// A run has ended, well or not.
    Ended(&'a RunSpec),
}

/// Does all runs with `jobs` workers. A run that fails does not stop the others; its error names
/// it. Returns the failures in the order of `specs`.
///
/// # Errors
/// When a worker cannot be started or a record cannot be written: then no run could go on.
pub fn run_all(
    specs: &[RunSpec],
    jobs: usize,
    store: &Store,
    launcher: &dyn Launcher,
    observe: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Vec<(RunSpec, Error)>> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        let mut worker = None;
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(spec) = specs.get(index) else { break };
            let current = match &mut worker {
                Some(current) => current,
                none => none.insert(launcher.worker(store)?),
            };
            match current.run(spec, &mut |progress| {
                observe(Event::Progress(spec, progress))
            }) {
                Ok(()) => {}
                Err(
                    error @ Error::Io {
                        action: "write", ..
                    },
                ) => return Err(error),
                Err(error) => {
                    if matches!(error, Error::WorkerLost(_)) {
                        worker = None;
                    }
                    let error = Error::Run(format!("{}: {error}", spec.label()));
                    failures
                        .lock()
                        .expect("no thread panics")
                        .push((index, error));
                }
            }
            observe(Event::Ended(spec));
        }
        Ok(())
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.clamp(1, specs.len().max(1)))
            .map(|_| scope.spawn(|| work().inspect_err(|_| stop.store(true, Ordering::Relaxed))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    let mut failures = failures.into_inner().expect("no thread panics");
    failures.sort_by_key(|(index, _)| *index);
    Ok(failures
        .into_iter()
        .map(|(index, error)| (specs[index].clone(), error))
        .collect())
}

/// Workers in this process, for tests and for programs that bring their own executor.
pub struct InProcess<'a> {
    /// Trains.
    pub executor: &'a dyn Executor,
    /// Written into records.
    pub provenance: Provenance,
}

struct Local<'a>(&'a InProcess<'a>, &'a Store);

impl Worker for Local<'_> {
    fn run(&mut self, spec: &RunSpec, observe: &mut dyn FnMut(Progress)) -> Result<()> {
        let Self(
            InProcess {
                executor,
                provenance,
            },
            store,
        ) = self;
        worker::perform(*executor, store, provenance, &Mutex::new(()), spec, observe)
    }
}

impl Launcher for InProcess<'_> {
    fn worker<'a>(&'a self, store: &'a Store) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Local(self, store)))
    }

    fn measure(&self, spec: &RunSpec) -> Result<Cost> {
        self.executor.measure(spec)
    }
}

/// Workers in processes of their own: `program worker DIR` and `program measure`, each with one
/// thread for the tensor library, so that as many as there are cores share the machine evenly.
pub struct Processes {
    /// The program.
    pub program: PathBuf,
    /// Arguments that start a worker; it writes to the directory of the store.
    pub worker: Vec<OsString>,
    /// Arguments that measure one run.
    pub measure: Vec<OsString>,
}

/// Tells the C library's allocator to keep the pages of a step's buffers for the next step, which asks
/// for the same ones: touching fresh pages would take a fifth of a step.
const KEEP_PAGES: [(&str, &str); 2] = [
    ("MALLOC_MMAP_THRESHOLD_", "4294967296"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
];

impl Processes {
    fn start(&self, arguments: &[OsString]) -> Result<Remote> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env("RAYON_NUM_THREADS", "1")
            .envs(KEEP_PAGES)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::io("start", &self.program, &error))?;
        let last_words = child
            .stderr
            .take()
            .map(|stderr| thread::spawn(move || last_lines(stderr)));
        let input = child.stdin.take();
        let output = child.stdout.take().map(BufReader::new);
        Ok(Remote {
            child,
            input,
            output,
            last_words,
        })
    }
}

impl Launcher for Processes {
    fn worker<'a>(&'a self, _store: &'a Store) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.start(&self.worker)?))
    }

    fn measure(&self, spec: &RunSpec) -> Result<Cost> {
        let mut remote = self.start(&self.measure)?;
        remote
            .send(spec)
            .map_err(|error| remote.lost(&error.to_string()))?;
        remote.input = None;
        while let Some(line) = remote.line() {
            if let Ok(cost) = serde_json::from_str(&line) {
                return Ok(cost);
            }
        }
        Err(remote.lost("no measurement"))
    }
}

/// A worker process.
struct Remote {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    last_words: Option<JoinHandle<String>>,
}

impl Remote {
    fn send(&mut self, spec: &RunSpec) -> std::io::Result<()> {
        let text = serde_json::to_string(spec)?;
        let input = self.input.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        writeln!(input, "{text}")?;
        input.flush()
    }

    /// The next line of the process's output; `None` at its end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.output.as_mut()?.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line),
        }
    }

    /// The process has ended: what it said last, and how it ended.
    fn lost(&mut self, context: &str) -> Error {
        self.input = None;
        let status = self
            .child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        let words = self
            .last_words
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        Error::WorkerLost(
            format!("its process ended ({status}; {context})\n{words}")
                .trim_end()
                .to_owned(),
        )
    }
}

impl Worker for Remote {
    fn run(&mut self, spec: &RunSpec, observe: &mut dyn FnMut(Progress)) -> Result<()> {
        if let Err(error) = self.send(spec) {
            return Err(self.lost(&error.to_string()));
        }
        while let Some(line) = self.line() {
            // Lines that are no answers come from libraries that print.
            match serde_json::from_str(&line) {
                Ok(Answer::Progress(progress)) => observe(progress),
                Ok(Answer::Done) => return Ok(()),
                Ok(Answer::Failed(message)) => return Err(Error::Run(message)),
                Ok(Answer::Unwritable(reason)) => {
                    return Err(Error::Io {
                        action: "write",
                        path: "a run record".into(),
                        reason,
                    });
                }
                Err(_) => {}
            }
        }
        Err(self.lost("no answer"))
    }
}

impl Drop for Remote {
    /// Without input the process ends by itself.
    fn drop(&mut self) {
        self.input = None;
        // Its exit code no longer matters: the runs it finished are in the store.
        let _ = self.child.wait();
    }
}

/// Reads to the end and keeps the last lines.
fn last_lines(stream: impl Read) -> String {
    const KEPT: usize = 12;
    let mut kept = VecDeque::new();
    for line in BufReader::new(stream)
        .lines()
        .map_while(std::io::Result::ok)
    {
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Vec::from(kept).join("\n")
}
