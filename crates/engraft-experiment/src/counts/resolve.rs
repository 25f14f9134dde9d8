//! The number that follows from a row's setting.

use std::collections::BTreeMap;

use engraft_core::{Counts, Injection, ModelShapes, Part as ModelPart, Plan};
use regex::Regex;
use serde_json::{Map, Value};

use crate::{
    counts::{
        schema::{CountsFile, Of, Part, Row, Taken},
        verdict::{Published, Verdict},
    },
    error::Result,
};

/// The method that trains nothing of its own.
const NOTHING: &str = "linear-probe";

/// Presets, each built once.
#[derive(Debug, Default)]
pub struct Presets(BTreeMap<String, ModelShapes>);

impl Presets {
    fn get(&mut self, name: &str) -> std::result::Result<&ModelShapes, String> {
        if !self.0.contains_key(name) {
            let shapes = engraft_models::shapes::preset(name).map_err(|error| error.to_string())?;
            self.0.insert(name.to_owned(), shapes);
        }
        Ok(&self.0[name])
    }
}

/// What a row comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The computed number.
    pub count: Option<usize>,
    /// What it is a share of.
    pub whole: Option<usize>,
    /// How it compares with the published number.
    pub verdict: Verdict,
}

impl Outcome {
    /// The share in percent.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        Some(100.0 * self.count? as f64 / self.whole? as f64)
    }
}

/// Computes every row of a file.
///
/// # Errors
/// An unknown preset, method or key, or targets that match nothing, with the line of the row.
pub fn resolve(file: &CountsFile, presets: &mut Presets) -> Result<Vec<Outcome>> {
    let rows = file.tables.rows.iter();
    rows.map(|row| outcome(row, presets).map_err(|message| file.error(row, message)))
        .collect()
}

fn outcome(row: &Row, presets: &mut Presets) -> std::result::Result<Outcome, String> {
    let without = |verdict| Outcome {
        count: None,
        whole: None,
        verdict,
    };
    if let Some(id) = &row.awaits {
        return match engraft::entry(id) {
            Ok(_) => Err(format!(
                "`{id}` is registered now: give `parts` instead of `awaits`"
            )),
            Err(_) => Ok(without(Verdict::NotRegistered)),
        };
    }
    let Some(preset) = row.preset.as_ref().filter(|_| !row.parts.is_empty()) else {
        return Ok(without(Verdict::NotComputable));
    };
    let shapes = presets.get(preset)?;
    let count = trained(row, shapes)?;
    let whole = row.of.map(|of| match of {
        Of::Base => shapes.total(),
        Of::BaseAndAdapter => shapes.total() + count,
    });
    Ok(Outcome {
        count: Some(count),
        whole,
        verdict: compare(row, count, whole)?,
    })
}

fn compare(row: &Row, count: usize, whole: Option<usize>) -> std::result::Result<Verdict, String> {
    let Some(text) = &row.published else {
        return Ok(Verdict::Unpublished);
    };
    let text = text.to_string();
    let published = Published::parse(&text, row.significant).ok_or_else(|| {
        format!("published `{text}`, expected a number such as 9175040, \"26.2M\" or \"0.13%\"")
    })?;
    let base = match (published.is_percentage(), whole) {
        (true, None) => {
            return Err(format!(
                "published `{text}`: say in `of` whether it is a share of `base` or of `base-and-adapter`"
            ));
        }
        (_, whole) => whole.unwrap_or(1),
    };
    Ok(match published.verdict(count, base) {
        Verdict::Mismatch if row.convention.is_some() => Verdict::OtherConvention,
        verdict => verdict,
    })
}

fn trained(row: &Row, shapes: &ModelShapes) -> std::result::Result<usize, String> {
    let mut sum = row.head.map_or(0, |head| head.count());
    for part in &row.parts {
        sum += of_part(part, shapes)?;
    }
    if row.model_heads > 0 {
        let head = Injection {
            train_head: true,
            ..Injection::default()
        };
        sum += row.model_heads * plan(NOTHING, &Map::new(), shapes, &head)?.head;
    }
    if !row.also.is_empty() {
        let along = Injection {
            train_also: along(&row.also, shapes)?,
            ..Injection::default()
        };
        sum += plan(NOTHING, &Map::new(), shapes, &along)?.all_trained();
    }
    Ok(sum)
}

fn of_part(part: &Part, shapes: &ModelShapes) -> std::result::Result<usize, String> {
    let injection = Injection {
        targets: part.targets.clone(),
        ..Injection::default()
    };
    let counts = plan(&part.id, &part.config, shapes, &injection)?;
    let count = match part.count {
        Taken::Trained => counts.all_trained(),
        Taken::Shared => counts.shared,
        Taken::Stored => counts.stored,
        Taken::StoredOfLayers => counts.stored - counts.shared,
    };
    Ok(count * part.times / part.per)
}

fn plan(
    id: &str,
    config: &Map<String, Value>,
    shapes: &ModelShapes,
    injection: &Injection,
) -> std::result::Result<Counts, String> {
    let method = engraft::method(id, &Value::Object(config.clone())).map_err(|e| e.to_string())?;
    let plan = Plan::new(&method, shapes, injection).map_err(|error| error.to_string())?;
    Ok(plan.counts())
}

/// The paths of the parameters that are trained along.
fn along(patterns: &[String], shapes: &ModelShapes) -> std::result::Result<Vec<String>, String> {
    let mut paths = Vec::new();
    for pattern in patterns {
        let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())?;
        let before = paths.len();
        paths.extend(
            shapes
                .params
                .iter()
                .filter(|param| match pattern.as_str() {
                    "norms" => param.part == ModelPart::Norm,
                    _ => regex.is_match(&param.path),
                })
                .map(|param| param.path.clone()),
        );
        if paths.len() == before {
            return Err(format!("`{pattern}` in `also` matches no parameter"));
        }
    }
    Ok(paths)
}
