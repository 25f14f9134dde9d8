//! Everything that needs no process of its own.

use std::fs;

use engraft_experiment::{
    Error, list,
    plan::{Options, Plan},
    render,
    run::{Settings, Summary},
    schema::Experiment,
    table::Cell,
};

use crate::synthetic::{Bench, EXPERIMENT, RUNS, Synthetic, TRIALS};

fn text(summary: &Summary) -> String {
    render::markdown(&summary.table)
}

#[test]
fn an_experiment_ends_with_a_table_and_files() {
    let bench = Bench::new();
    let executor = Synthetic::default();
    let summary = bench.run(&executor).unwrap();
    assert_eq!(executor.count(), RUNS);
    assert!(summary.failures.is_empty());
    let first: Vec<String> = summary.table.rows.iter().map(|row| row[0].text()).collect();
    assert_eq!(
        (first[0].as_str(), first[3].as_str(), first.len()),
        ("base model", "full", 4)
    );
    for file in [
        "table.md",
        "table.csv",
        "table.tex",
        "plot.svg",
        "plot.png",
        "report.html",
    ] {
        assert!(
            bench
                .out()
                .join("synthetic")
                .join(file)
                .metadata()
                .unwrap()
                .len()
                > 100,
            "{file}"
        );
    }
    assert!(summary.files.iter().all(|file| file.exists()));
    let report = fs::read_to_string(bench.out().join("synthetic/report.html")).unwrap();
    for forbidden in ["<script", "<link", "<img", " src=", "@import", "url("] {
        assert!(!report.contains(forbidden), "{forbidden}");
    }
    // 24 final runs, of them 18 trained: a loss and a validation curve each.
    assert_eq!(report.matches("<polyline class=").count(), 36);
}

#[test]
fn every_writer_shows_the_same_numbers() {
    let bench = Bench::new();
    let summary = bench.run(&Synthetic::default()).unwrap();
    let read = |name: &str| fs::read_to_string(bench.out().join("synthetic").join(name)).unwrap();
    let (markdown, latex, html, csv) = (
        read("table.md"),
        read("table.tex"),
        read("report.html"),
        read("table.csv"),
    );
    for cell in summary
        .table
        .rows
        .iter()
        .flatten()
        .filter(|cell| **cell != Cell::Empty)
    {
        let shown = cell.text();
        assert!(
            markdown.contains(&shown) && html.contains(&shown),
            "{shown}"
        );
        assert!(latex.contains(&shown.replace('±', "$\\pm$")), "{shown}");
        assert!(shown.split(" ± ").all(|part| csv.contains(part)), "{shown}");
    }
}

#[test]
fn an_interrupted_experiment_continues_and_ends_with_the_identical_table() {
    let whole = text(&Bench::new().run(&Synthetic::default()).unwrap());
    for limit in [0, 5, TRIALS, TRIALS + 1, RUNS - 1] {
        let bench = Bench::new();
        let interrupted = Synthetic {
            fails_after: Some(limit),
            ..Synthetic::default()
        };
        let summary = bench.run(&interrupted).unwrap();
        assert!(!summary.failures.is_empty());
        assert!(summary.failures.iter().all(|error| error.exit_code() == 1));
        let message = summary.failures[0].to_string();
        assert!(
            message.contains(" on ") && message.contains("pulled the plug"),
            "{message}"
        );
        let executor = Synthetic::default();
        let summary = bench.run(&executor).unwrap();
        assert_eq!(executor.count(), RUNS - limit);
        assert_eq!(text(&summary), whole);
    }
}

#[test]
fn nothing_finished_is_repeated_unless_asked() {
    let mut bench = Bench::new();
    bench.run(&Synthetic::default()).unwrap();
    let executor = Synthetic::default();
    bench.run(&executor).unwrap();
    assert_eq!(executor.count(), 0);
    bench.options.seeds = Some(4);
    bench.run(&executor).unwrap();
    assert_eq!(executor.count(), 8);
    bench.options.seeds = None;
    bench.fresh = true;
    bench.run(&executor).unwrap();
    assert_eq!(executor.count(), 8 + RUNS);
}

#[test]
fn other_weights_make_old_records_useless() {
    let bench = Bench::new();
    bench.run(&Synthetic::default()).unwrap();
    let executor = Synthetic {
        weights: "other".into(),
        ..Synthetic::default()
    };
    bench.run(&executor).unwrap();
    assert_eq!(executor.count(), RUNS);
}

#[test]
fn damaged_records_are_moved_aside_and_their_runs_repeated() {
    let bench = Bench::new();
    let before = text(&bench.run(&Synthetic::default()).unwrap());
    let runs = Settings::records(&bench.out());
    let mut files: Vec<_> = fs::read_dir(&runs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| !file.to_string_lossy().contains("measure"));
    assert_eq!(files.len(), RUNS);
    let (truncated, other) = (fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    fs::write(&files[0], &truncated[..truncated.len() / 2]).unwrap();
    fs::write(&files[2], other).unwrap();
    let executor = Synthetic::default();
    assert_eq!(text(&bench.run(&executor).unwrap()), before);
    assert_eq!(executor.count(), 2);
    assert!(files[0].with_extension("json.corrupt").is_file());
    assert!(files[2].with_extension("json.corrupt").is_file());
}

#[test]
fn learning_rates_are_chosen_by_domain_on_validation() {
    let experiment = Experiment::parse("e.toml".as_ref(), EXPERIMENT.to_owned()).unwrap();
    let plan = Plan::new(&experiment, &Options::default(), &Synthetic::default()).unwrap();
    assert_eq!(plan.trials().len(), TRIALS);
    let selection = plan.select(|spec| {
        assert_eq!(spec.seed, 100);
        let rate = spec.optimizer.learning_rate;
        Some(if spec.task.domain == "turned" {
            rate
        } else {
            -rate
        })
    });
    assert_eq!(selection[1], [Some(0.01), Some(0.001)]);
    assert_eq!(plan.finals(&selection).len(), plan.count_finals());
    let tied = plan.select(|_| Some(0.5));
    assert_eq!(tied[3], [Some(0.0001), Some(0.0001)]);
    let failed = plan.select(|spec| (spec.method.id != "boft").then_some(0.5));
    assert_eq!(failed[2], [None, None]);
}

#[test]
fn quick_is_small_and_apart() {
    let mut bench = Bench::new();
    bench.options.quick = true;
    let executor = Synthetic::default();
    let summary = bench.run(&executor).unwrap();
    assert_eq!(executor.count(), 4);
    assert!(bench.out().join("synthetic-quick/table.md").is_file());
    assert!(summary.table.title.contains("quick"));
    bench.options.quick = false;
    bench.run(&executor).unwrap();
    assert_eq!(
        executor.count(),
        4 + RUNS - 1,
        "only the base model, which does not train, is shared"
    );
}

#[test]
fn published_numbers_get_a_verdict() {
    let mut bench = Bench::new();
    bench.text = EXPERIMENT.replace(
        "id = \"boft\"",
        "id = \"boft\"\nneeds_larger_machine = true",
    );
    let executor = Synthetic::default();
    let table = bench.run(&executor).unwrap().table;
    assert_eq!(executor.count(), RUNS - 4 - 6);
    let verdict = |label: &str| {
        let row = table
            .rows
            .iter()
            .find(|row| row[0].text() == label)
            .unwrap();
        row.last().unwrap().text()
    };
    assert_eq!(verdict("LoRA"), "not reproduced");
    assert_eq!(verdict("boft"), "needs a larger machine");
    assert_eq!(verdict("full"), "–");
}

#[test]
fn bad_input_names_line_and_nearest() {
    for (from, to, expected) in [
        (
            "\"boft\"",
            "\"bofft\"",
            "synthetic.toml:26: unknown method `bofft`: the nearest is `boft`",
        ),
        (
            "\"noisy\"",
            "\"nosy\"",
            "synthetic.toml:7: unknown domain `nosy`: the nearest is `noisy`",
        ),
    ] {
        let mut bench = Bench::new();
        bench.text = EXPERIMENT.replace(from, to);
        let error = bench.run(&Synthetic::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(!bench.out().exists());
    }
}

#[test]
fn an_unwritable_directory_is_bad_input() {
    let bench = Bench::new();
    fs::write(bench.out(), "a file").unwrap();
    let error = bench.run(&Synthetic::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Io {
                action: "write",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_list_tells_what_has_results() {
    let bench = Bench::new();
    let experiments = bench.directory.path().join("experiments");
    fs::create_dir(&experiments).unwrap();
    fs::write(experiments.join("synthetic.toml"), EXPERIMENT).unwrap();
    fs::write(experiments.join("broken.toml"), "title = 3").unwrap();
    let entries = || list::entries(bench.directory.path(), &bench.out());
    assert!(!entries()[1].has_results);
    bench.run(&Synthetic::default()).unwrap();
    let text = list::text(&entries());
    assert!(text.contains("synthetic  results  Synthetic"), "{text}");
    assert!(text.contains("broken     -        not readable"), "{text}");
}

#[test]
fn the_quickstart_is_a_valid_experiment() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../experiments/quickstart.toml"
    );
    let tables = Experiment::read(path.as_ref()).unwrap().tables;
    assert!(tables.methods.len() >= 12);
    assert!(tables.task.domains.len() >= 3);
    assert!(tables.protocol.seeds.get_ref().len() >= 5);
}
