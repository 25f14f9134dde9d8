//! What the runs come to: a lambda for each method and form, means and verdicts.

use engraft_merge::arithmetic::Form;

use super::{
    run::{Record, Scores, Swept},
    schema::{BASE, Claim, SCORE, Tables},
};
use crate::{
    stats::{Interval, mean, paired_difference},
    verdict::Verdict,
};

/// Both forms, in the order of rows.
pub(super) const FORMS: [Form; 2] = [Form::Exact, Form::FactorWise];

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The method's label.
    pub method: String,
    /// `base`, an adapter's name, or a form of the sum.
    pub name: String,
    /// The chosen lambda, of a sum.
    pub lambda: Option<f64>,
    /// The share of every measure.
    pub measures: Vec<Option<Interval>>,
    /// Their mean, an unwanted one counted as 1 - share.
    pub score: Option<Interval>,
    /// How far the forms of the sum are apart.
    pub difference: Option<Interval>,
    /// Of a sum: whether all claims hold.
    pub verdict: Option<Verdict>,
    /// Of a sum: every claim with its interval.
    pub claims: Vec<String>,
}

/// A method and form at a lambda.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub method: String,
    pub form: Form,
    pub lambda: f64,
    pub score: Option<Interval>,
    pub difference: Option<Interval>,
}

/// All numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Results {
    pub rows: Vec<Row>,
    pub sweep: Vec<Point>,
    pub seeds: usize,
}

impl Results {
    /// Takes the records of every method together, by seed.
    pub fn new(tables: &Tables, records: &[Vec<Record>]) -> Self {
        let (mut rows, mut sweep) = (Vec::new(), Vec::new());
        for (method, records) in tables.methods.iter().zip(records) {
            let of = One {
                tables,
                method: &method.label,
                records,
            };
            if records.is_empty() {
                continue;
            }
            let alone =
                std::iter::once(BASE).chain(tables.adapters.iter().map(|a| a.name.as_str()));
            rows.extend(alone.map(|name| of.alone(name)));
            rows.extend(FORMS.map(|form| of.sum(form)));
            sweep.extend(FORMS.into_iter().flat_map(|form| of.sweep(form)));
        }
        Self {
            rows,
            sweep,
            seeds: records.iter().map(Vec::len).max().unwrap_or(0),
        }
    }
}

/// The records of one method.
struct One<'a> {
    tables: &'a Tables,
    method: &'a str,
    records: &'a [Record],
}

impl One<'_> {
    fn alone(&self, name: &str) -> Row {
        let scores: Vec<&Scores> = self
            .records
            .iter()
            .map(|record| &record.rows[name])
            .collect();
        self.row(name, &scores)
    }

    fn sum(&self, form: Form) -> Row {
        let best = self.best(form);
        let swept: Vec<&Swept> = self
            .records
            .iter()
            .map(|record| &record.sweep[best])
            .collect();
        let scores: Vec<&Scores> = swept.iter().map(|swept| of_form(swept, form)).collect();
        let claims = self.tables.claims.iter();
        let claims: Vec<(bool, String)> = claims
            .flat_map(|claim| self.claim(claim, &scores))
            .collect();
        let holds = !claims.is_empty() && claims.iter().all(|(holds, _)| *holds);
        Row {
            lambda: Some(swept[0].lambda),
            difference: difference(&swept),
            verdict: Some(match holds {
                true => Verdict::DirectionHolds,
                false => Verdict::NotReproduced,
            }),
            claims: claims.into_iter().map(|(_, text)| text).collect(),
            ..self.row(&format!("sum, {form}"), &scores)
        }
    }

    fn row(&self, name: &str, scores: &[&Scores]) -> Row {
        let measures = 0..self.tables.measures.len();
        let test = |at: usize| {
            scores
                .iter()
                .map(|scores| scores.test[at])
                .collect::<Vec<f64>>()
        };
        Row {
            method: self.method.to_owned(),
            name: name.to_owned(),
            lambda: None,
            measures: measures.map(|at| Interval::student(&test(at))).collect(),
            score: Interval::student(&self.values(SCORE, scores)),
            difference: None,
            verdict: None,
            claims: Vec::new(),
        }
    }

    /// The place of the lambda with the best mean score on validation images, the first of equal ones.
    fn best(&self, form: Form) -> usize {
        let score = |at: usize| {
            let scores = self
                .records
                .iter()
                .map(|record| of_form(&record.sweep[at], form));
            mean(
                &scores
                    .map(|scores| self.score(&scores.validation))
                    .collect::<Vec<_>>(),
            )
        };
        let better = |best: usize, at: usize| if score(at) > score(best) { at } else { best };
        (0..self.records[0].sweep.len()).fold(0, better)
    }

    fn score(&self, shares: &[f64]) -> f64 {
        let good = shares.iter().zip(&self.tables.measures);
        let good = good.map(|(share, measure)| {
            if measure.unwanted {
                1.0 - share
            } else {
                *share
            }
        });
        mean(&good.collect::<Vec<_>>())
    }

    /// A measure of every seed on test images, larger being better.
    fn values(&self, measure: &str, scores: &[&Scores]) -> Vec<f64> {
        let at = self
            .tables
            .measures
            .iter()
            .position(|one| one.name == measure);
        let value = |scores: &&Scores| match at {
            None => self.score(&scores.test),
            Some(at) if self.tables.measures[at].unwanted => 1.0 - scores.test[at],
            Some(at) => scores.test[at],
        };
        scores.iter().map(value).collect()
    }

    /// Whether the sum is better than each row, seed by seed: the 95% interval of the difference lies
    /// above minus the tolerance.
    fn claim(&self, claim: &Claim, sum: &[&Scores]) -> Vec<(bool, String)> {
        let compared = claim.better_than.iter().map(|name| {
            let row: Vec<&Scores> = self
                .records
                .iter()
                .map(|record| &record.rows[name])
                .collect();
            let [sum, row] = [sum, &row[..]].map(|scores| self.values(&claim.measure, scores));
            let Some(Interval { mean, half_width }) = paired_difference(&sum, &row) else {
                return (false, String::new());
            };
            let half = half_width.unwrap_or(0.0);
            let holds = mean - half > -claim.tolerance;
            let (is, tolerance) = match claim.tolerance > 0.0 {
                true => (
                    "not worse than",
                    format!(" (within {:.1})", 100.0 * claim.tolerance),
                ),
                false => ("better than", String::new()),
            };
            let text = format!(
                "{}: {is} `{name}`{tolerance} by {:+.1} ± {:.1}: {}",
                claim.measure,
                100.0 * mean,
                100.0 * half,
                if holds { "yes" } else { "no" }
            );
            (holds, text)
        });
        compared.collect()
    }

    fn sweep(&self, form: Form) -> Vec<Point> {
        let point = |at: usize| {
            let swept: Vec<&Swept> = self
                .records
                .iter()
                .map(|record| &record.sweep[at])
                .collect();
            let scores: Vec<&Scores> = swept.iter().map(|swept| of_form(swept, form)).collect();
            Point {
                method: self.method.to_owned(),
                form,
                lambda: swept[0].lambda,
                score: Interval::student(&self.values(SCORE, &scores)),
                difference: difference(&swept),
            }
        };
        (0..self.records[0].sweep.len()).map(point).collect()
    }
}

fn of_form(swept: &Swept, form: Form) -> &Scores {
    match form {
        Form::Exact => &swept.exact,
        Form::FactorWise => &swept.factor_wise,
    }
}

fn difference(swept: &[&Swept]) -> Option<Interval> {
    let values: Option<Vec<f64>> = swept.iter().map(|swept| swept.difference).collect();
    Interval::student(&values?)
}
