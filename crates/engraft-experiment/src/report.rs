//! One HTML page that holds everything: table, plot, differences, learning rates, curves,
//! configuration and versions. It loads nothing from elsewhere and follows the reader's choice of
//! light or dark.

use std::collections::BTreeMap;

use crate::{
    executor::Point,
    plan::{Plan, Selection},
    provenance::Provenance,
    record::RunRecord,
    render::{self, escape_html},
    results::Results,
    schema::Experiment,
    stats,
    table::Table,
};

/// What the page shows.
pub struct Contents<'a> {
    /// The file of the experiment.
    pub experiment: &'a Experiment,
    /// The plan.
    pub plan: &'a Plan,
    /// The chosen learning rates.
    pub selection: &'a Selection,
    /// The numbers.
    pub results: &'a Results,
    /// The table.
    pub table: &'a Table,
    /// Records by key.
    pub records: &'a BTreeMap<String, RunRecord>,
    /// Versions and machine.
    pub provenance: Provenance,
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --faint: #777; --loss: #c65; --validation: #38a; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 88rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
.number { text-align: right; } .note { color: var(--faint); margin: .3rem 0; font-size: .9rem; }
figure { margin: 1rem 0; } figure > svg { max-width: 100%; height: auto; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; } .curves div { font-size: .8rem; color: var(--faint); }
.curves svg { display: block; border: 1px solid var(--line); } polyline { fill: none; stroke-width: 1.2; }
.loss { stroke: var(--loss); } .validation { stroke: var(--validation); }
pre { overflow-x: auto; border: 1px solid var(--line); padding: 1rem; font-size: .85rem; }
summary { cursor: pointer; } details { margin: .3rem 0; }
";

/// The page.
#[must_use]
pub fn html(contents: &Contents<'_>, figure: &str) -> String {
    let Contents {
        experiment, table, ..
    } = contents;
    let sections = [
        format!("<p>{}</p>", escape_html(&experiment.tables.description)),
        render::html(table),
        format!("<figure>{figure}</figure>"),
        format!(
            "<h2>Paired differences to full fine-tuning</h2>\n{}",
            differences(contents)
        ),
        format!(
            "<h2>Learning rates, chosen on validation accuracy of the trial seeds</h2>\n{}",
            rates(contents)
        ),
        format!("<h2>Curves of the final runs</h2>\n{}", curves(contents)),
        format!(
            "<h2>Configuration</h2>\n<pre>{}</pre>",
            escape_html(&experiment.text)
        ),
        format!("<h2>Versions</h2>\n{}", versions(contents)),
    ];
    page(&table.title, &sections)
}

/// A page of these sections.
pub(crate) fn page(title: &str, sections: &[String]) -> String {
    let title = escape_html(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{}\n</body>\n</html>\n",
        sections.join("\n")
    )
}

fn rows(head: &[&str], body: &[Vec<String>]) -> String {
    let line = |tag: &str, cells: &[String]| {
        let cells: String = cells
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape_html(cell)))
            .collect();
        format!("<tr>{cells}</tr>\n")
    };
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let body: String = body.iter().map(|cells| line("td", cells)).collect();
    format!(
        "<div class=\"wide\"><table>{}{body}</table></div>",
        line("th", &head)
    )
}

/// Accuracy minus that of full fine-tuning, seed by seed, in points.
fn differences(contents: &Contents<'_>) -> String {
    let Contents { plan, results, .. } = contents;
    let Some(full) = results
        .rows
        .iter()
        .find(|row| plan.methods[row.method].is_full())
    else {
        return "<p class=\"note\">There is no complete row of full fine-tuning.</p>".to_owned();
    };
    let body: Vec<Vec<String>> = results
        .rows
        .iter()
        .filter(|row| row.method != full.method)
        .filter_map(|row| {
            let difference = stats::paired_difference(&row.per_seed, &full.per_seed)?;
            let half_width = difference
                .half_width
                .map(|half| format!(" ± {:.1}", 100.0 * half));
            let text = format!(
                "{:+.1}{}",
                100.0 * difference.mean,
                half_width.unwrap_or_default()
            );
            Some(vec![row.label.clone(), text])
        })
        .collect();
    rows(&["method", "points of accuracy, 95% interval"], &body)
}

fn rates(contents: &Contents<'_>) -> String {
    let Contents {
        plan, selection, ..
    } = contents;
    let mut head = vec!["method"];
    head.extend(plan.domains.iter().map(String::as_str));
    head.push("tried");
    let trained = plan
        .methods
        .iter()
        .zip(selection.iter())
        .filter(|(planned, _)| !planned.is_base());
    let body: Vec<Vec<String>> = trained
        .map(|(planned, chosen)| {
            let mut cells = vec![planned.label.clone()];
            cells.extend(
                chosen
                    .iter()
                    .map(|rate| rate.map_or("failed".to_owned(), |rate| rate.to_string())),
            );
            let tried: Vec<String> = planned.learning_rates.iter().map(f64::to_string).collect();
            cells.push(tried.join(", "));
            cells
        })
        .collect();
    rows(&head, &body)
}

/// For each method and domain the loss and the validation accuracy of every seed.
fn curves(contents: &Contents<'_>) -> String {
    let Contents {
        plan,
        selection,
        results,
        records,
        ..
    } = contents;
    let mut text = "<p class=\"note\">Training loss red, validation accuracy blue, each scaled to its own range; one line a seed.</p>\n".to_owned();
    for row in results
        .rows
        .iter()
        .filter(|row| !plan.methods[row.method].is_base())
    {
        let mut panels = String::new();
        for (domain, rate) in selection[row.method].iter().enumerate() {
            let Some(rate) = rate else { continue };
            let runs: Vec<&RunRecord> = plan
                .seeds
                .iter()
                .filter_map(|seed| {
                    records.get(&plan.final_run(row.method, domain, *rate, *seed).key())
                })
                .collect();
            if !runs.is_empty() {
                panels += &panel(&plan.domains[domain], &runs);
            }
        }
        text += &format!(
            "<details><summary>{}</summary><div class=\"curves\">{panels}</div></details>\n",
            escape_html(&row.label)
        );
    }
    text
}

fn panel(domain: &str, runs: &[&RunRecord]) -> String {
    let losses: Vec<&[Point]> = runs
        .iter()
        .map(|run| run.outcome.train_loss.as_slice())
        .collect();
    let validations: Vec<&[Point]> = runs
        .iter()
        .map(|run| run.outcome.validation.as_slice())
        .collect();
    format!(
        "<div>{}<svg width=\"260\" height=\"120\" role=\"img\">{}{}</svg></div>",
        escape_html(domain),
        polylines("loss", &losses),
        polylines("validation", &validations)
    )
}

/// Curves on a common scale; points that are not finite are left out.
fn polylines(class: &str, curves: &[&[Point]]) -> String {
    const SIZE: (f64, f64, f64) = (250.0, 110.0, 5.0);
    let finite = || {
        curves
            .iter()
            .flat_map(|curve| curve.iter())
            .filter(|point| point.value.is_finite())
    };
    let last = finite().map(|point| point.step).max().unwrap_or(0).max(1) as f64;
    let low = finite()
        .map(|point| point.value)
        .fold(f64::INFINITY, f64::min);
    let span = (finite()
        .map(|point| point.value)
        .fold(f64::NEG_INFINITY, f64::max)
        - low)
        .max(f64::MIN_POSITIVE);
    curves
        .iter()
        .map(|curve| {
            let points: Vec<String> = curve
                .iter()
                .filter(|point| point.value.is_finite())
                .map(|point| {
                    let x = SIZE.2 + SIZE.0 * point.step as f64 / last;
                    let y = SIZE.2 + SIZE.1 * (1.0 - (point.value - low) / span);
                    format!("{x:.1},{y:.1}")
                })
                .collect();
            format!(
                "<polyline class=\"{class}\" points=\"{}\"/>",
                points.join(" ")
            )
        })
        .collect()
}

fn versions(contents: &Contents<'_>) -> String {
    let Contents {
        provenance,
        records,
        plan,
        ..
    } = contents;
    let mut body = vec![
        vec!["engraft".to_owned(), provenance.engraft.clone()],
        vec!["compiler".to_owned(), provenance.rustc.clone()],
        vec!["commit".to_owned(), provenance.commit.clone()],
        vec![
            "platform".to_owned(),
            format!("{}, {}", provenance.platform, provenance.processor),
        ],
        vec![
            "seeds".to_owned(),
            plan.seeds
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ],
    ];
    if let Some(record) = records.values().next() {
        body.push(vec!["device".to_owned(), record.spec.device.clone()]);
        body.push(vec![
            "model".to_owned(),
            format!(
                "{}, {} parameters",
                record.spec.model.preset, record.model.parameters
            ),
        ]);
        body.push(vec![
            "weights, SHA-256".to_owned(),
            record.model.weights_sha256.clone(),
        ]);
        body.push(vec![
            "data, SHA-256".to_owned(),
            record.model.data_sha256.clone(),
        ]);
        let wall: f64 = records.values().map(|record| record.wall_seconds).sum();
        body.push(vec![
            "runs".to_owned(),
            format!("{}, {wall:.0} s of work", records.len()),
        ]);
    }
    rows(&["", ""], &body)
}
