//! Sums of adapters as experiments.

use std::fs;
use std::path::Path;

use engraft_experiment::composition::schema::{Composition, is_composition};
use engraft_experiment::composition::{Settings, run_composition};
use engraft_experiment::progress::Meter;
use engraft_experiment::table::Cell;

const NAMES: [&str; 4] = [
    "distribution-generalisation",
    "multi-task",
    "unlearning",
    "domain-transfer",
];

fn text(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    fs::read_to_string(folder.join(format!("2306.14870-composing-pem/{name}.toml"))).unwrap()
}

fn parse(text: String) -> engraft_experiment::Result<Composition> {
    Composition::parse(Path::new("e.toml"), text)
}

fn settings(out: &Path) -> Settings {
    Settings {
        seeds: None,
        device: None,
        quick: true,
        out: out.to_owned(),
        jobs: 2,
        fresh: false,
    }
}

#[test]
fn every_use_case_ends_with_its_tables() {
    let folder = tempfile::tempdir().unwrap();
    for name in NAMES {
        assert!(is_composition(&text(name)));
        let experiment = parse(text(name)).unwrap();
        let run = || {
            run_composition(
                name,
                &experiment,
                &settings(folder.path()),
                &Meter::silent(),
            )
        };
        let summary = run().unwrap();
        assert!(summary.failures.is_empty(), "{:?}", summary.failures);
        assert!(summary.files.iter().all(|file| file.exists()), "{name}");
        let [rows, sweep] = &summary.tables;
        // Both methods, each with the base, its adapters and both forms of their sum.
        assert_eq!(
            rows.rows.len(),
            2 * (experiment.tables.adapters.len() + 3),
            "{name}"
        );
        let cells = |from: &str, column: usize| {
            let found = rows
                .rows
                .iter()
                .filter(|row| row[1].text().starts_with(from));
            found.map(|row| row[column].clone()).collect::<Vec<Cell>>()
        };
        let columns = rows.columns.len();
        for verdict in cells("sum", columns - 1) {
            assert!(["direction holds", "not reproduced"].contains(&verdict.text().as_str()));
        }
        let differences = cells("sum", columns - 2);
        assert!(differences[0].text() != "0.0 ± 0.0", "{name}");
        assert_eq!(
            differences[2].text(),
            "0.0 ± 0.0",
            "{name}: (IA)^3 has one form"
        );
        assert_eq!(
            sweep.rows.len(),
            experiment.tables.protocol.lambdas.get_ref().len()
        );
        // What is finished is not repeated, and says the same.
        let records = || fs::read_dir(folder.path().join("runs")).unwrap().count();
        let before = records();
        assert_eq!(run().unwrap().tables, summary.tables, "{name}");
        assert_eq!(records(), before);
    }
}

#[test]
fn mistakes_are_named() {
    let said = |from: &str, to: &str| {
        let text = text("unlearning");
        assert!(text.contains(from), "{from}");
        let file = parse(text.replacen(from, to, 1));
        let out = tempfile::tempdir().unwrap();
        let run = |file| run_composition("e", &file, &settings(out.path()), &Meter::silent());
        let error = file.and_then(run).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    for (from, to, expected) in [
        ("labels =", "label =", "the nearest is `labels`"),
        (
            "data = [\"noisy\"]",
            "data = [\"nosy\"]",
            "unknown data `nosy`: the nearest is `noisy`",
        ),
        (
            "adapter = \"noise\"",
            "adapter = \"nose\"",
            "unknown adapter `nose`: the nearest is `noise`",
        ),
        (
            "better_than = [\"contaminated\"]",
            "better_than = [\"bse\"]",
            "the nearest is `base`",
        ),
        (
            "id = \"ia3\"",
            "id = \"oft\"",
            "unknown method of a composition `oft`",
        ),
        ("images = \"mirrored\"", "images = \"miror\"", "mirrored"),
        (
            "part = [0.0, 0.5]",
            "part = [0.5, 0.0]",
            "expected [from, to]",
        ),
        (
            "name = \"noisy\"",
            "name = \"right\"",
            "two [[data]] called `right`",
        ),
        ("images_per_class = 30", "images_per_class = 3000", "3000"),
        ("rank = 8", "rnak = 8", "rank"),
    ] {
        let message = said(from, to);
        assert!(message.contains(expected), "{message}\nexpected {expected}");
    }
}
