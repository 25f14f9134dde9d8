//! One timed case in a process of its own; prints one line of JSON.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use engraft_benches::measure::{self, Budget};
use engraft_benches::merge::Merge;
use engraft_benches::mixed::{Mixed, Rows};
use engraft_benches::training::Training;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Times one case and prints a line of JSON.
#[derive(Debug, Parser)]
struct Args {
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Counted runs.
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// `train`, `mixed` or `merge`.
    kind: String,
    /// What to time: `stack4 lora_r8`, `stack4 lora_r8 ADAPTERS TOKENS`, `lora_r8 SIZE`.
    what: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<serde_json::Value, String> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()
        .map_err(|error| error.to_string())?;
    let budget = Budget {
        warm: 3,
        runs: args.runs,
        limit: Duration::from_secs(8),
    };
    let words: Vec<&str> = args.what.iter().map(String::as_str).collect();
    match (args.kind.as_str(), &words[..]) {
        ("train", [net, method]) => {
            let start = measure::resident_mb();
            let begin = Instant::now();
            let mut training = Training::new(net, method).map_err(|error| error.to_string())?;
            let build_ms = begin.elapsed().as_secs_f64() * 1e3;
            let timing = measure::time(budget, || training.step());
            let peak = measure::peak_mb();
            let delta = start.zip(peak).map(|(start, peak)| peak - start);
            Ok(json!({
                "bench": "train", "net": net, "method": method, "threads": args.threads,
                "trainable": training.trained(), "build_ms": build_ms, "rss_delta_mb": delta,
                "ms": timing.ms, "ms_min": timing.ms_min, "n": timing.n,
            }))
        }
        ("mixed", [net, method, adapters, tokens]) => {
            let count = |word: &str| {
                let number = word
                    .parse::<usize>()
                    .map_err(|error| format!("{word}: {error}"));
                number.and_then(|n| {
                    if n > 0 {
                        Ok(n)
                    } else {
                        Err("0: expected at least 1".into())
                    }
                })
            };
            let mut case = Mixed::new(net, method, count(adapters)?, count(tokens)?)
                .map_err(|error| error.to_string())?;
            let what: serde_json::Map<_, _> = Rows::ALL
                .into_iter()
                .map(|(name, rows)| {
                    case.choose(rows);
                    let timing = measure::time(budget, || drop(case.run(rows)));
                    (name.to_owned(), json!(timing))
                })
                .collect();
            Ok(json!({
                "bench": "mixed", "net": net, "method": method, "adapters": adapters,
                "seq": tokens, "threads": args.threads, "what": what,
            }))
        }
        ("merge", [method, size]) => {
            let size = size.parse().map_err(|error| format!("{size}: {error}"))?;
            let mut case = Merge::new(method, size).map_err(|error| error.to_string())?;
            case.run().map_err(|error| error.to_string())?;
            let timing = measure::time(budget, || case.run().expect("it ran once"));
            let copy = measure::time(budget, || drop(std::hint::black_box(case.copy())));
            Ok(json!({
                "bench": "merge", "method": method, "size": size, "threads": args.threads,
                "ms": timing.ms, "ms_min": timing.ms_min, "n": timing.n,
                "copy_ms": copy.ms, "copy_ms_min": copy.ms_min,
            }))
        }
        _ => Err(format!(
            "unknown case {} {}",
            args.kind,
            args.what.join(" ")
        )),
    }
}
