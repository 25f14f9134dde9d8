//! Worker processes: this test executable plays the parts of parent, worker and measurement.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use engraft_experiment::{
    measure, plan::Options, pool::Processes, provenance::Provenance, render, run::Settings,
    store::Store, worker,
};

use crate::synthetic::{Bench, EXPERIMENT, RUNS, Synthetic, run};

/// Tells the test below which part to play.
const PART: &str = "ENGRAFT_TEST_PART";
/// The directory of results of that part.
const OUT: &str = "ENGRAFT_TEST_OUT";
/// A method that aborts the worker.
const ABORT: &str = "ENGRAFT_TEST_ABORT";

/// Not a test by itself: the other tests start this executable with this test alone.
#[test]
fn part() {
    let Ok(part) = env::var(PART) else { return };
    let out = env::var(OUT).unwrap();
    let executor = Synthetic {
        pause: Duration::from_millis(20),
        aborts: env::var(ABORT).ok(),
        ..Synthetic::default()
    };
    match part.as_str() {
        "worker" => {
            let store = Store::open(&Settings::records(Path::new(&out))).unwrap();
            worker::serve(&executor, &store, &Provenance::collect(Path::new("."))).unwrap();
        }
        "measure" => {
            let line = std::io::read_to_string(std::io::stdin()).unwrap();
            println!("\n{}", measure::answer(&executor, &line).unwrap());
        }
        "parent" => {
            run(
                EXPERIMENT,
                Path::new(&out),
                Options::default(),
                false,
                &executor,
                &launcher(&out, None),
            )
            .unwrap();
        }
        other => panic!("no part {other}"),
    }
}

/// The arguments and environment that make this executable play a part; `env` is how a launcher,
/// which knows arguments alone, sets variables.
fn arguments(part: &str, out: &str, abort: Option<&str>) -> Vec<std::ffi::OsString> {
    let mut words = vec![format!("{PART}={part}"), format!("{OUT}={out}")];
    words.extend(abort.map(|method| format!("{ABORT}={method}")));
    words.push(env::current_exe().unwrap().to_str().unwrap().to_owned());
    words.extend(["--exact", "processes::part", "--nocapture"].map(str::to_owned));
    words.into_iter().map(Into::into).collect()
}

fn launcher(out: &str, abort: Option<&str>) -> Processes {
    Processes {
        program: "env".into(),
        worker: arguments("worker", out, abort),
        measure: arguments("measure", out, None),
    }
}

fn records(bench: &Bench) -> usize {
    let files = fs::read_dir(Settings::records(&bench.out()))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter(|file| {
            file.path()
                .extension()
                .is_some_and(|extension| extension == "json")
        })
        .count()
}

#[cfg(unix)]
#[test]
fn a_killed_experiment_continues_and_ends_with_the_identical_table() {
    let whole = render::csv(&Bench::new().run(&Synthetic::default()).unwrap().table);
    let bench = Bench::new();
    let out = bench.out().to_str().unwrap().to_owned();
    let mut parent = Command::new("env")
        .args(arguments("parent", &out, None))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while records(&bench) < 5 && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(5));
    }
    // SIGKILL: the parent cannot tell its workers anything.
    parent.kill().unwrap();
    parent.wait().unwrap();
    thread::sleep(Duration::from_millis(200));
    let left = records(&bench);
    assert!((5..RUNS).contains(&left), "{left} records");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(records(&bench), left, "the workers outlived their parent");
    let summary = bench
        .run_with(&Synthetic::default(), &launcher(&out, None))
        .unwrap();
    assert_eq!(render::csv(&summary.table), whole);
}

#[cfg(unix)]
#[test]
fn a_worker_that_dies_fails_its_run_alone() {
    let bench = Bench::new();
    let out = bench.out().to_str().unwrap().to_owned();
    let summary = bench
        .run_with(&Synthetic::default(), &launcher(&out, Some("boft")))
        .unwrap();
    // Four trials of one method; without them it has no learning rate and no final runs.
    assert_eq!(summary.failures.len(), 4);
    let message = summary.failures[0].to_string();
    assert!(
        message.starts_with("boft on turned, learning rate 0.001, seed 100"),
        "{message}"
    );
    assert!(message.contains("last words of a worker"), "{message}");
    assert_eq!(summary.table.rows.len(), 3);
    assert!(
        summary
            .table
            .notes
            .iter()
            .any(|note| note.contains("runs failed: boft"))
    );
    assert_eq!(summary.failures[0].exit_code(), 1);
}
