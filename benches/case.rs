//! One timed case in a process of its own; prints one line of JSON.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use engraft_benches::init::{self, FactorMerge, InitLayer};
use engraft_benches::limit::Products;
use engraft_benches::measure::{self, Budget, Timing};
use engraft_benches::merge::Merge;
use engraft_benches::mixed::{Mixed, Rows};
use engraft_benches::switch::Switching;
use engraft_benches::training::{TOKENS, Training};
use engraft_benches::{Shapes, growth};
use serde_json::{Value, json};

/// Times one case and prints a line of JSON.
#[derive(Debug, Parser)]
struct Args {
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Counted runs.
    #[arg(long, default_value_t = 15)]
    runs: usize,
    #[command(subcommand)]
    case: Case,
}

#[derive(Debug, clap::Subcommand)]
enum Case {
    /// A training step of a network
    Train { net: String, method: String },
    /// A training step of one layer at a size
    Growth {
        axis: String,
        method: String,
        value: usize,
    },
    /// The products that a frozen network needs, or a copy of a weight of this side
    Limit { what: String },
    /// The start of an adapter
    Init { side: usize, how: String },
    /// An adapter folded into a square weight
    Merge { side: usize, method: String },
    /// An adapter loaded into a square weight on the host
    Switch { side: usize, what: String },
    /// The best factors of a sum of three adapters
    Weighted { side: usize },
    /// 64 rows over 16 adapters
    Mixed { tokens: usize, what: String },
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
        .map_err(said)?;
    let budget = Budget {
        warm: 3,
        runs: args.runs,
        limit: Duration::from_secs(8),
    };
    // Some of these take seconds.
    let once = Budget { warm: 1, ..budget };
    match &args.case {
        Case::Train { net, method } => train(budget, || Training::named(net, method).map_err(said)),
        Case::Growth {
            axis,
            method,
            value,
        } if axis == "adapters" => {
            let mixed = Mixed::new("stack4", method, *value, 1).map_err(said)?;
            Ok(answer(measure::time(budget, || {
                drop(mixed.run(Rows::Mixed))
            })))
        }
        Case::Growth {
            axis,
            method,
            value,
        } => train(budget, || growth::layer(axis, method, *value).map_err(said)),
        Case::Limit { what } => limit(budget, what),
        Case::Init { side, how } => {
            let case = init::cases().into_iter().find(|case| case.name == how);
            let case = case.ok_or_else(|| format!("no init called {how}"))?;
            let layer = InitLayer::new(*side);
            Ok(answer(measure::time(once, || layer.start(&case))))
        }
        Case::Merge { side, method } => {
            let mut merge = Merge::new(method, *side).map_err(said)?;
            merge.run().map_err(said)?;
            Ok(answer(measure::time(once, || {
                merge.run().expect("it ran once");
            })))
        }
        Case::Switch { side, what } => Ok(answer(measure::time_part(
            budget,
            Switching::new(what, *side)?,
            Switching::load,
            Switching::unload,
        ))),
        Case::Weighted { side } => {
            let merge = FactorMerge::new(*side);
            Ok(answer(measure::time(once, || drop(merge.run()))))
        }
        Case::Mixed { tokens, what } => {
            let rows = match what.as_str() {
                "base" => Rows::Base,
                "single" => Rows::Active,
                "mixed" => Rows::Mixed,
                other => return Err(format!("found {other}, expected base, single or mixed")),
            };
            let mut mixed = Mixed::new("stack4", "lora_r8", 16, *tokens).map_err(said)?;
            mixed.choose(rows);
            Ok(answer(measure::time(budget, || drop(mixed.run(rows)))))
        }
    }
}

fn limit(budget: Budget, what: &str) -> Result<Value, String> {
    if let Ok(side) = what.parse::<usize>() {
        let weight = vec![0.5f32; side * side];
        return Ok(answer(measure::time(budget, || {
            drop(black_box(weight.clone()))
        })));
    }
    let shapes = Shapes::load();
    let net = shapes
        .net(what)
        .ok_or_else(|| format!("found {what}, expected a net or a side"))?;
    let mut products = Products::new(net, TOKENS[0] * TOKENS[1]);
    Ok(answer(measure::time(budget, || products.run())))
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

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
