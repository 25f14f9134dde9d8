//! What the tables are made of.

use std::fmt::Write as _;

use super::super::records::Pair;
use super::super::sides::Measured;

pub fn line(page: &mut String, cells: &[String]) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

pub fn head(page: &mut String, title: &str, columns: &[&str]) {
    let _ = writeln!(page, "\n## {title}\n");
    line(
        page,
        &columns
            .iter()
            .map(|column| (*column).to_owned())
            .collect::<Vec<_>>(),
    );
    line(page, &vec!["---".to_owned(); columns.len()]);
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn ms(side: &[Measured]) -> f64 {
    median(side.iter().map(|measured| measured.ms))
}

pub fn memory(side: &[Measured]) -> f64 {
    median(side.iter().filter_map(|measured| measured.rss_delta_mb))
}

pub fn time(ms: f64) -> String {
    match ms {
        ms if ms.is_nan() => "-".to_owned(),
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

pub fn ratio_cell(pair: &Pair) -> String {
    let ratios = pair.ratios();
    match ratios.len() {
        0 => "-".to_owned(),
        1 => format!("{:.3}", ratios[0]),
        len => format!(
            "{:.3} [{:.3}, {:.3}]",
            ratios[len / 2],
            ratios[0],
            ratios[len - 1]
        ),
    }
}

pub fn verdict(found: f64, target: f64) -> String {
    let word = if found <= target { "met" } else { "MISSED" };
    format!("at most {target}: {word}")
}
