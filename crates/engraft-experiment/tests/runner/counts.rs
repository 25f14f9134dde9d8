//! Parameter tables of the project against what the papers' tables are known to come to.
//!
//! `counts.csv` has a line for every row of every table, in the order of the file: the directory,
//! the count that follows from the setting by hand, and how it compares with the published number.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use engraft_experiment::counts::{
    names,
    resolve::{Outcome, Presets, resolve},
    schema::{CountsFile, Provenance},
    verdict::Verdict,
};
use engraft_experiment::workspace;

struct Expected {
    count: Option<usize>,
    relation: &'static str,
}

fn expected() -> BTreeMap<&'static str, Vec<Expected>> {
    let mut rows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in include_str!("counts.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [paper, count, relation] = fields[..] else {
            panic!("{line}")
        };
        let count = count.parse().ok();
        rows.entry(paper)
            .or_default()
            .push(Expected { count, relation });
    }
    rows
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether the verdict is one that the relation allows.
fn agrees(outcome: &Outcome, relation: &str) -> bool {
    match relation {
        "exact" => outcome.verdict == Verdict::Exact,
        "rounded" | "approx" => outcome.verdict == Verdict::Rounded,
        "truncated" => outcome.verdict == Verdict::Truncated,
        "off-by-1-ulp" => outcome.verdict == Verdict::OffByOne,
        "MISMATCH" => matches!(
            outcome.verdict,
            Verdict::Mismatch | Verdict::OtherConvention
        ),
        "n/a" => matches!(
            outcome.verdict,
            Verdict::Unpublished | Verdict::NotComputable
        ),
        other => panic!("unknown relation `{other}`"),
    }
}

#[test]
fn every_row_comes_to_the_known_number_and_verdict() {
    let mut expected = expected();
    let mut presets = Presets::default();
    let mut wrong = Vec::new();
    let mut rows = 0;
    for name in names(&root()).unwrap() {
        let file = CountsFile::read(&workspace::file(&root(), &name)).unwrap();
        let outcomes = resolve(&file, &mut presets).unwrap();
        let paper = name.strip_suffix("/counts").unwrap();
        let known = expected.remove(paper).unwrap_or_default();
        assert_eq!(outcomes.len(), known.len(), "{name}");
        rows += known.len();
        for ((row, outcome), known) in file.tables.rows.iter().zip(&outcomes).zip(&known) {
            if outcome.verdict == Verdict::NotRegistered {
                continue;
            }
            // RoSA's share is rounded in each of the 226 layers, not once in the whole model.
            let slack = if paper.ends_with("rosa") { 226 } else { 0 };
            let count = match (outcome.count, known.count) {
                (Some(found), Some(known)) => found.abs_diff(known) <= slack,
                (found, known) => found == known,
            };
            if !count || !agrees(outcome, known.relation) {
                wrong.push(format!(
                    "{paper}: {} on {}, {}: {outcome:?}, expected {:?} {}",
                    row.method.get_ref(),
                    row.model,
                    row.setting,
                    known.count,
                    known.relation,
                ));
            }
            let differs = matches!(known.relation, "MISMATCH" | "off-by-1-ulp");
            if differs && row.note.is_none() && row.convention.is_none() {
                wrong.push(format!("{paper}: {} has no note", row.method.get_ref()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(expected.is_empty(), "{:?}", expected.keys());
    assert_eq!(rows, 278);
}

#[test]
fn what_was_inferred_or_remembered_is_labelled() {
    let provenance = |paper: &str| -> Vec<Provenance> {
        let name = format!("{paper}/counts");
        let file = CountsFile::read(&workspace::file(&root(), &name)).unwrap();
        let rows = file.tables.rows.iter();
        rows.map(|row| row.provenance).collect()
    };
    assert!(provenance("2407.01906-esft").contains(&Provenance::Stated));
    assert!(provenance("2311.06243-boft").contains(&Provenance::Fitted));
    assert!(provenance("2503.01905-paca").contains(&Provenance::Recalled));
}
