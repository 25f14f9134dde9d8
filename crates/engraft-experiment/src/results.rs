//! From records to rows: the numbers of the table before they are formatted.

use std::cmp::Ordering;

use crate::{
    executor::{Cost, Counts},
    plan::{Plan, Selection},
    record::RunRecord,
    spec::RunSpec,
    stats::Interval,
    verdict::Verdict,
};

/// A row. Accuracies are fractions between 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The place in the plan's list of methods.
    pub method: usize,
    /// The name.
    pub label: String,
    /// The family.
    pub family: String,
    /// Parameters; `None` when the row was not run.
    pub counts: Option<Counts>,
    /// Test accuracy of each seed, averaged over the domains.
    pub per_seed: Vec<f64>,
    /// Mean and interval of `per_seed`.
    pub accuracy: Option<Interval>,
    /// Mean and interval over the seeds, domain by domain.
    pub by_domain: Vec<Option<Interval>>,
    /// Step time and memory.
    pub cost: Option<Cost>,
    /// The accuracy that the paper states.
    pub published: Option<f64>,
    /// The comparison with it.
    pub verdict: Option<Verdict>,
}

/// All rows in their order: the base model, methods by falling accuracy, full fine-tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// The rows.
    pub rows: Vec<Row>,
    /// Methods without a row, because a run of theirs failed.
    pub incomplete: Vec<String>,
}

/// Collects the rows. `record` finds the record of a run, `cost` the cost of a method.
pub fn collect<'a>(
    plan: &Plan,
    selection: &Selection,
    record: impl Fn(&RunSpec) -> Option<&'a RunRecord>,
    cost: impl Fn(usize) -> Option<Cost>,
) -> Results {
    let mut results = Results {
        rows: Vec::new(),
        incomplete: Vec::new(),
    };
    for (method, planned) in plan.methods.iter().enumerate() {
        let mut row = Row {
            method,
            label: planned.label.clone(),
            family: planned.family.clone(),
            counts: None,
            per_seed: Vec::new(),
            accuracy: None,
            by_domain: vec![None; plan.domains.len()],
            cost: cost(method),
            published: planned.published.map(|percent| percent / 100.0),
            verdict: None,
        };
        if planned.needs_larger_machine {
            row.verdict = Some(Verdict::NeedsLargerMachine);
            results.rows.push(row);
        } else if fill(&mut row, plan, &selection[method], &record).is_some() {
            results.rows.push(row);
        } else {
            results.incomplete.push(planned.label.clone());
        }
    }
    judge(plan, &mut results.rows);
    results.rows.sort_by(|a, b| order(plan, a, b));
    results
}

/// Adds the numbers of a method's final runs; `None` when one is missing.
fn fill<'a>(
    row: &mut Row,
    plan: &Plan,
    rates: &[Option<f64>],
    record: &impl Fn(&RunSpec) -> Option<&'a RunRecord>,
) -> Option<()> {
    let mut sums = vec![0.0; plan.seeds.len()];
    for (domain, rate) in rates.iter().enumerate() {
        let mut accuracies = Vec::new();
        for (seed, sum) in plan.seeds.iter().zip(&mut sums) {
            let outcome = &record(&plan.final_run(row.method, domain, (*rate)?, *seed))?.outcome;
            row.counts.get_or_insert(outcome.counts);
            *sum += outcome.test_accuracy;
            accuracies.push(outcome.test_accuracy);
        }
        row.by_domain[domain] = Interval::student(&accuracies);
    }
    row.per_seed = sums
        .into_iter()
        .map(|sum| sum / rates.len() as f64)
        .collect();
    row.accuracy = Interval::student(&row.per_seed);
    Some(())
}

/// Compares measured with published numbers; full fine-tuning is the reference where it has both.
fn judge(plan: &Plan, rows: &mut [Row]) {
    let reference = rows.iter().find(|row| plan.methods[row.method].is_full());
    let reference = reference.and_then(|row| Some((row.accuracy?.mean, row.published?)));
    for row in rows {
        if let (Some(accuracy), Some(published)) = (row.accuracy, row.published) {
            row.verdict = Some(Verdict::of(accuracy, published, reference));
        }
    }
}

/// Base first, full fine-tuning last, between them the larger accuracy, the fewer parameters and
/// the name decide; rows that were not run come after those that were.
fn order(plan: &Plan, a: &Row, b: &Row) -> Ordering {
    let place = |row: &Row| {
        let planned = &plan.methods[row.method];
        (
            planned.is_full(),
            !planned.is_base(),
            row.accuracy.is_none(),
        )
    };
    let accuracy = |row: &Row| row.accuracy.map_or(0.0, |interval| interval.mean);
    let trainable = |row: &Row| row.counts.map_or(0, |counts| counts.without_head());
    place(a)
        .cmp(&place(b))
        .then_with(|| accuracy(b).total_cmp(&accuracy(a)))
        .then_with(|| trainable(a).cmp(&trainable(b)))
        .then_with(|| a.label.cmp(&b.label))
}
