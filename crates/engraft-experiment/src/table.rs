//! The table: every number formatted once, whatever it is written to.

use crate::{
    plan::Plan,
    results::{Results, Row},
    stats::Interval,
};

/// A cell, formatted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// There is no value.
    Empty,
    /// Words.
    Text(String),
    /// A number.
    Number(String),
    /// A mean with the half-width of its interval, empty for a single value.
    Interval(String, String),
}

impl Cell {
    fn number(value: Option<String>) -> Self {
        value.map_or(Self::Empty, Self::Number)
    }

    /// A percentage with its interval.
    fn percent(interval: Option<Interval>) -> Self {
        let percent = |value: f64| format!("{:.1}", 100.0 * value);
        interval.map_or(Self::Empty, |Interval { mean, half_width }| {
            Self::Interval(percent(mean), half_width.map(percent).unwrap_or_default())
        })
    }

    /// The cell in one piece, a dash when it is empty.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Empty => "–".to_owned(),
            Self::Text(text) | Self::Number(text) => text.clone(),
            Self::Interval(mean, half_width) if half_width.is_empty() => mean.clone(),
            Self::Interval(mean, half_width) => format!("{mean} ± {half_width}"),
        }
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Words, aligned left.
    Text,
    /// Numbers, aligned right.
    Number,
    /// Means with intervals, aligned right.
    Interval,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

/// The table, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The title.
    pub title: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// As many cells in each row as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// Lines below the table.
    pub notes: Vec<String>,
}

impl Table {
    /// Formats results.
    #[must_use]
    pub fn new(title: &str, plan: &Plan, results: &Results) -> Self {
        let published = results
            .rows
            .iter()
            .any(|row| row.published.is_some() || row.verdict.is_some());
        let mut columns = Vec::new();
        let mut column = |name: &str, kind| {
            columns.push(Column {
                name: name.to_owned(),
                kind,
            })
        };
        column("method", Kind::Text);
        column("family", Kind::Text);
        column("trainable", Kind::Number);
        column("% of model", Kind::Number);
        column("accuracy %", Kind::Interval);
        for domain in &plan.domains {
            column(domain, Kind::Interval);
        }
        column("step ms", Kind::Number);
        column("peak MiB", Kind::Number);
        if published {
            column("published %", Kind::Number);
            column("verdict", Kind::Text);
        }
        let rows = results
            .rows
            .iter()
            .map(|row| cells(row, published))
            .collect();
        Self {
            title: title.to_owned(),
            columns,
            rows,
            notes: notes(plan, results),
        }
    }

    /// The table without the columns that are measured anew every time: what a repetition of the
    /// experiment must reproduce.
    #[must_use]
    pub fn without_measured(&self) -> Self {
        let kept: Vec<bool> = self
            .columns
            .iter()
            .map(|column| !["step ms", "peak MiB"].contains(&column.name.as_str()))
            .collect();
        let keep = |index: &usize| kept[*index];
        let pick = |row: &Vec<Cell>| {
            (0..row.len())
                .filter(keep)
                .map(|index| row[index].clone())
                .collect()
        };
        Self {
            title: self.title.clone(),
            columns: (0..kept.len())
                .filter(keep)
                .map(|index| self.columns[index].clone())
                .collect(),
            rows: self.rows.iter().map(pick).collect(),
            notes: self.notes.clone(),
        }
    }
}

fn cells(row: &Row, published: bool) -> Vec<Cell> {
    const MEBIBYTE: f64 = 1_048_576.0;
    let share = |counts: crate::executor::Counts| {
        format!(
            "{:.2}",
            100.0 * counts.without_head() as f64 / counts.total.max(1) as f64
        )
    };
    let mut cells = vec![
        Cell::Text(row.label.clone()),
        Cell::Text(row.family.clone()),
        Cell::number(row.counts.map(|counts| counts.without_head().to_string())),
        Cell::number(row.counts.map(share)),
        Cell::percent(row.accuracy),
    ];
    cells.extend(
        row.by_domain
            .iter()
            .map(|interval| Cell::percent(*interval)),
    );
    let peak = row.cost.and_then(|cost| cost.peak_bytes);
    cells.push(Cell::number(
        row.cost
            .map(|cost| format!("{:.1}", 1e3 * cost.step_seconds)),
    ));
    cells.push(Cell::number(
        peak.map(|bytes| format!("{:.0}", bytes as f64 / MEBIBYTE)),
    ));
    if published {
        cells.push(Cell::number(
            row.published.map(|value| format!("{:.1}", 100.0 * value)),
        ));
        cells.push(
            row.verdict
                .map_or(Cell::Empty, |verdict| Cell::Text(verdict.to_string())),
        );
    }
    cells
}

fn notes(plan: &Plan, results: &Results) -> Vec<String> {
    let (seeds, domains) = (plan.seeds.len(), plan.domains.len());
    let mut notes = vec![format!(
        "Test accuracy: mean ± half-width of the 95% Student t interval over {seeds} paired seed{}, averaged over {domains} domain{}.",
        plural(seeds),
        plural(domains),
    )];
    let heads = results
        .rows
        .iter()
        .filter_map(|row| row.counts)
        .map(|counts| counts.head);
    if let Some(head) = heads.max().filter(|head| *head > 0) {
        notes.push(format!(
            "Every trained method also trains the head, {head} parameters that are not counted above."
        ));
    }
    notes.push("Step time and peak memory: one process at a time, one thread.".to_owned());
    if !results.incomplete.is_empty() {
        notes.push(format!(
            "Without a row, because runs failed: {}.",
            results.incomplete.join(", ")
        ));
    }
    notes
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
