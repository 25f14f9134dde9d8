//! The table of a file, ready to be written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    counts::{
        resolve::{Outcome, Presets, resolve},
        schema::{CountsFile, Row},
        verdict::Verdict,
    },
    error::{Error, Result},
    render,
    store::write_atomic,
    table::{Cell, Column, Kind, Table},
};

const COLUMNS: [(&str, Kind); 11] = [
    ("method", Kind::Text),
    ("model", Kind::Text),
    ("setting", Kind::Text),
    ("published", Kind::Number),
    ("computed", Kind::Number),
    ("computed %", Kind::Number),
    ("verdict", Kind::Text),
    ("provenance", Kind::Text),
    ("formula", Kind::Text),
    ("source", Kind::Text),
    ("note", Kind::Text),
];

/// What a file comes to.
#[derive(Debug)]
pub struct Report {
    /// The table.
    pub table: Table,
    /// Its rows' verdicts.
    pub verdicts: Vec<Verdict>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

/// Computes the table of a file and writes it as Markdown, CSV and LaTeX to `out/name`.
///
/// # Errors
/// A mistake in the file, or a directory that cannot be written to.
pub fn report(name: &str, path: &Path, out: &Path, presets: &mut Presets) -> Result<Report> {
    let file = CountsFile::read(path)?;
    let outcomes = resolve(&file, presets)?;
    let table = table(&file, &outcomes);
    let directory = out.join(name);
    fs::create_dir_all(&directory).map_err(|error| Error::io("write", &directory, &error))?;
    let mut files = Vec::new();
    for (file, text) in [
        ("table.md", render::markdown(&table)),
        ("table.csv", render::csv(&table)),
        ("table.tex", render::latex(&table)),
    ] {
        let target = directory.join(file);
        write_atomic(&target, text.as_bytes())?;
        files.push(target);
    }
    Ok(Report {
        table,
        verdicts: outcomes.iter().map(|outcome| outcome.verdict).collect(),
        files,
    })
}

/// "278 rows: 50 exact, 3 MISMATCH".
#[must_use]
pub fn summary(verdicts: &[Verdict]) -> String {
    let number = |wanted: &Verdict| verdicts.iter().filter(|found| *found == wanted).count();
    let parts: Vec<String> = Verdict::ALL
        .iter()
        .filter(|verdict| number(verdict) > 0)
        .map(|verdict| format!("{} {verdict}", number(verdict)))
        .collect();
    format!("{} rows: {}.", verdicts.len(), parts.join(", "))
}

fn table(file: &CountsFile, outcomes: &[Outcome]) -> Table {
    let verdicts: Vec<Verdict> = outcomes.iter().map(|outcome| outcome.verdict).collect();
    let rows = file.tables.rows.iter().zip(outcomes);
    Table {
        title: file.tables.title.clone(),
        columns: COLUMNS
            .iter()
            .map(|(name, kind)| Column {
                name: (*name).to_owned(),
                kind: *kind,
            })
            .collect(),
        rows: rows
            .map(|(row, outcome)| cells(row, outcome, &file.tables.source))
            .collect(),
        notes: vec![
            summary(&verdicts),
            "Provenance: stated, the paper or its code states the setting; fitted, the setting was inferred from the number; recalled, the published number was not read again.".to_owned(),
        ],
    }
}

fn cells(row: &Row, outcome: &Outcome, source: &str) -> Vec<Cell> {
    let text = |text: &str| match text {
        "" => Cell::Empty,
        text => Cell::Text(text.to_owned()),
    };
    let number = |number: Option<String>| number.map_or(Cell::Empty, Cell::Number);
    let percent = outcome.percent().map(|percent| format!("{percent:.4}"));
    let note = [row.convention.as_deref(), row.note.as_deref()];
    let note: Vec<&str> = note.into_iter().flatten().collect();
    vec![
        text(row.method.get_ref()),
        text(&row.model),
        text(&row.setting),
        number(row.published.as_ref().map(ToString::to_string)),
        number(outcome.count.map(|count| count.to_string())),
        number(percent),
        Cell::Text(outcome.verdict.to_string()),
        Cell::Text(row.provenance.to_string()),
        text(&row.formula),
        text(row.source.as_deref().unwrap_or(source)),
        text(&note.join("; ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"kind = "counts"
title = "An example"
source = "Table 1"
[[row]]
method = "LoRA"
model = "LLaMA-7B"
preset = "llama-7b"
setting = "r=8 q,v"
published = "4.2M"
parts = [{ id = "lora", config = { rank = 8 }, targets = ["q_proj", "v_proj"] }]
[[row]]
method = "Not yet"
model = "LLaMA-7B"
setting = "-"
published = "1M"
awaits = "no-such-method"
"#;

    fn parse(text: &str) -> Result<CountsFile> {
        CountsFile::parse(Path::new("e.toml"), text.to_owned())
    }

    fn message(from: &str, to: &str) -> String {
        assert!(EXAMPLE.contains(from));
        let file = parse(&EXAMPLE.replace(from, to));
        file.and_then(|file| resolve(&file, &mut Presets::default()))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_row_is_computed_and_compared() {
        let file = parse(EXAMPLE).unwrap();
        let outcomes = resolve(&file, &mut Presets::default()).unwrap();
        assert_eq!(outcomes[0].count, Some(4_194_304));
        assert_eq!(outcomes[0].verdict, Verdict::Rounded);
        assert_eq!(outcomes[1].verdict, Verdict::NotRegistered);
        let table = table(&file, &outcomes);
        assert_eq!(table.rows[0][4], Cell::Number("4194304".to_owned()));
        assert_eq!(table.notes[0], "2 rows: 1 rounded, 1 not registered.");
    }

    #[test]
    fn a_difference_that_is_explained_is_another_convention() {
        let from = "published = \"4.2M\"";
        let explained = "published = \"2.1M\"\nconvention = \"A is not counted\"";
        for (to, expected) in [
            (explained, Verdict::OtherConvention),
            ("published = \"2.1M\"", Verdict::Mismatch),
            ("", Verdict::Unpublished),
        ] {
            let file = parse(&EXAMPLE.replace(from, to)).unwrap();
            let outcomes = resolve(&file, &mut Presets::default()).unwrap();
            assert_eq!(outcomes[0].verdict, expected);
        }
    }

    #[test]
    fn mistakes_are_reported_with_their_row() {
        for (from, to, expected) in [
            (
                "setting",
                "seting",
                "e.toml:8: unknown key `seting`: the nearest is `setting`",
            ),
            ("\"lora\"", "\"lroa\"", "e.toml:5: row `LoRA`: unknown"),
            ("rank", "rnak", "nearest: rank"),
            ("\"q_proj\"", "\"qproj\"", "`qproj` matches no layer"),
            ("\"llama-7b\"", "\"lama-7b\"", "nearest: llama-7b"),
            ("4.2M", "4.2X", "e.toml:5: row `LoRA`: published `4.2X`"),
            ("4.2M", "4.2%", "say in `of`"),
            (
                "no-such-method",
                "lora",
                "e.toml:12: row `Not yet`: `lora` is registered now",
            ),
            ("preset = \"llama-7b\"\n", "", "no `preset`"),
        ] {
            let message = message(from, to);
            assert!(message.contains(expected), "{message}\nexpected {expected}");
        }
    }
}
