//! One timed case in a process of its own; prints one line of JSON.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use engraft_benches::limit::Products;
use engraft_benches::measure::{self, Budget, Timing};
use engraft_benches::merge::Merge;
use engraft_benches::mixed::{Mixed, Rows};
use engraft_benches::training::{TOKENS, Training};
use engraft_benches::{Shapes, growth};
use serde_json::{Value, json};

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
    /// `train`, `growth`, `limit`, `mixed` or `merge`.
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

fn run(args: &Args) -> Result<Value, String> {
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
    let said = |error: engraft_core::Error| error.to_string();
    match (args.kind.as_str(), &words[..]) {
        ("train", [net, method]) => train(budget, || Training::named(net, method).map_err(said)),
        ("growth", [axis, method, value]) => {
            let value = value
                .parse()
                .map_err(|_| format!("found {value}, expected a size"))?;
            train(budget, || growth::layer(axis, method, value).map_err(said))
        }
        ("limit", [net]) => {
            let shapes = Shapes::load();
            let net = shapes
                .net(net)
                .ok_or_else(|| format!("no net called {net}"))?;
            let mut products = Products::new(net, TOKENS[0] * TOKENS[1]);
            Ok(answer(measure::time(budget, || products.run())))
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

fn train(
    budget: Budget,
    build: impl FnOnce() -> Result<Training, String>,
) -> Result<Value, String> {
    let start = measure::resident_mb();
    let mut training = build()?;
    let timing = measure::time(budget, || training.step());
    let peak = measure::peak_mb();
    let mut line = answer(timing);
    line["trainable"] = json!(training.trained());
    line["rss_delta_mb"] = json!(start.zip(peak).map(|(start, peak)| peak - start));
    Ok(line)
}

fn answer(timing: Timing) -> Value {
    serde_json::to_value(timing).expect("numbers")
}
