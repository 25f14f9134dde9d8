//! The tables of an experiment and its page.

use super::{
    results::{FORMS, Results, Row},
    schema::{Composition, Tables},
};
use crate::{
    provenance::Provenance,
    render::{self, escape_html},
    report,
    stats::Interval,
    table::{Cell, Column, Kind, Table},
};

fn column(name: &str, kind: Kind) -> Column {
    Column {
        name: name.to_owned(),
        kind,
    }
}

fn percent(interval: Option<Interval>) -> Cell {
    let percent = |value: f64| format!("{:.1}", 100.0 * value);
    interval.map_or(Cell::Empty, |Interval { mean, half_width }| {
        Cell::Interval(percent(mean), half_width.map(percent).unwrap_or_default())
    })
}

/// One row a model: without adapters, with one, with a sum of them.
pub(super) fn rows(title: &str, tables: &Tables, results: &Results) -> Table {
    let mut columns = vec![
        column("method", Kind::Text),
        column("adapter", Kind::Text),
        column("lambda", Kind::Number),
    ];
    for measure in &tables.measures {
        let arrow = if measure.unwanted { " (unwanted)" } else { "" };
        columns.push(column(
            &format!("{}{arrow} %", measure.name),
            Kind::Interval,
        ));
    }
    columns.push(column("score %", Kind::Interval));
    columns.push(column("forms differ %", Kind::Interval));
    columns.push(column("verdict", Kind::Text));
    Table {
        title: title.to_owned(),
        columns,
        rows: results.rows.iter().map(cells).collect(),
        notes: notes(tables, results),
    }
}

fn cells(row: &Row) -> Vec<Cell> {
    let mut cells = vec![
        Cell::Text(row.method.clone()),
        Cell::Text(row.name.clone()),
        row.lambda
            .map_or(Cell::Empty, |lambda| Cell::Number(lambda.to_string())),
    ];
    cells.extend(row.measures.iter().map(|interval| percent(*interval)));
    cells.push(percent(row.score));
    cells.push(percent(row.difference));
    let verdict = row.verdict.map(|verdict| Cell::Text(verdict.to_string()));
    cells.push(verdict.unwrap_or(Cell::Empty));
    cells
}

fn notes(tables: &Tables, results: &Results) -> Vec<String> {
    let mut notes = vec![
        format!("Sum: {}. {}", tables.sum.formula, tables.source),
        format!(
            "Test images: mean ± half-width of the 95% Student t interval over {} seeds. The score is the mean of all measures, an unwanted one counted as 100 minus it; lambda is the one with the best mean score on validation images. Forms differ: |factor-wise - exact| / |exact| of the change of all weights.",
            results.seeds
        ),
        "A direction holds if the 95% intervals of the paired differences do:".to_owned(),
    ];
    let sums = results.rows.iter().filter(|row| row.verdict.is_some());
    notes.extend(
        sums.map(|row| format!("{}, {}: {}.", row.method, row.name, row.claims.join("; "))),
    );
    notes
}

/// The score of the sum by lambda, for every method and form.
pub(super) fn sweep(tables: &Tables, results: &Results) -> Table {
    let mut columns = vec![column("lambda", Kind::Number)];
    for method in &tables.methods {
        for form in FORMS {
            columns.push(column(
                &format!("{}, {form} %", method.label),
                Kind::Interval,
            ));
        }
        columns.push(column(
            &format!("{}, forms differ %", method.label),
            Kind::Interval,
        ));
    }
    let rows = tables.protocol.lambdas.get_ref().iter().map(|lambda| {
        let mut cells = vec![Cell::Number(lambda.to_string())];
        for method in &tables.methods {
            let at = |form| {
                let mut points = results.sweep.iter();
                points.find(|point| {
                    (point.form, point.lambda) == (form, *lambda) && point.method == method.label
                })
            };
            let points = FORMS.map(at);
            cells.extend(points.map(|point| percent(point.and_then(|point| point.score))));
            cells.push(percent(points[0].and_then(|point| point.difference)));
        }
        cells
    });
    Table {
        title: "Score by lambda".to_owned(),
        columns,
        rows: rows.collect(),
        notes: vec![format!("Sum: {}.", tables.sum.formula)],
    }
}

/// The files of both tables, and a page that holds them.
pub(super) fn files(
    experiment: &Composition,
    all: &[Table; 2],
    provenance: &Provenance,
) -> Vec<(&'static str, String)> {
    let [rows, sweep] = all;
    let versions = format!(
        "Engraft {}, commit {}, {}, {}, {}",
        provenance.engraft,
        provenance.commit,
        provenance.rustc,
        provenance.platform,
        provenance.processor
    );
    let sections = [
        format!("<p>{}</p>", escape_html(&experiment.tables.description)),
        render::html(rows),
        format!(
            "<h2>{}</h2>\n{}",
            escape_html(&sweep.title),
            render::html(sweep)
        ),
        format!(
            "<h2>Configuration</h2>\n<pre>{}</pre>",
            escape_html(&experiment.text)
        ),
        format!("<p class=\"note\">{}</p>", escape_html(&versions)),
    ];
    let markdown = format!("{}\n#{}", render::markdown(rows), render::markdown(sweep));
    vec![
        ("table.md", markdown),
        ("table.csv", render::csv(rows)),
        ("lambda.csv", render::csv(sweep)),
        ("table.tex", render::latex(rows)),
        ("report.html", report::page(&rows.title, &sections)),
    ]
}
