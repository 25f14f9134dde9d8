//! The methods by name: one table of pipelines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Pipeline;
use crate::error::{Error, Result, nearest};

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Method {
    /// What it does, in a sentence.
    pub about: String,
    /// Where it is from.
    pub paper: String,
    /// Its steps, with the options that its paper recommends.
    pub pipeline: Pipeline,
}

static METHODS: LazyLock<BTreeMap<String, Method>> = LazyLock::new(|| {
    toml::from_str(include_str!("methods.toml")).expect("the table is read by a test")
});

/// The table: every method by its name.
#[must_use]
pub fn methods() -> &'static BTreeMap<String, Method> {
    &METHODS
}

impl Pipeline {
    /// The pipeline of a method, with some of its options changed: a key sets every option of that name in its
    /// steps (`density`, `lambda`, `t`, `scope`, `seed`, ...), or replaces a stage (`prepare`, `consensus`,
    /// `rescale`). Underscores in the name are as good as hyphens.
    ///
    /// # Errors
    /// An unknown method or option, with the nearest known; options outside their range.
    pub fn named(name: &str, options: &Map<String, Value>) -> Result<Self> {
        let known = methods();
        let Some(method) = known.get(&name.replace('_', "-")) else {
            let near = nearest(name, known.keys().map(String::as_str));
            let all: Vec<&str> = known.keys().map(String::as_str).collect();
            let nearest = near
                .first()
                .map_or(String::new(), |near| format!("; the nearest is `{near}`"));
            return Err(Error::input(format!(
                "no method `{name}`{nearest}; there are {}",
                all.join(", ")
            )));
        };
        let refused =
            |reason: &dyn std::fmt::Display| Error::input(format!("method `{name}`: {reason}"));
        let mut pipeline = serde_json::to_value(&method.pipeline).map_err(|e| refused(&e))?;
        for (option, value) in options {
            if !set(&mut pipeline, option, value) {
                let mut names = BTreeSet::new();
                collect(&pipeline, &mut names);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let near = match nearest(option, names.iter().copied()).first() {
                    Some(near) => format!("; the nearest is `{near}`"),
                    None => String::new(),
                };
                let reason = format!("no option `{option}`{near}; there are {}", names.join(", "));
                return Err(refused(&reason));
            }
        }
        let pipeline: Self = serde_json::from_value(pipeline).map_err(|e| refused(&e))?;
        pipeline.check().map_err(|e| refused(&e))?;
        Ok(pipeline)
    }
}

/// Sets an option wherever it is; whether it is anywhere.
fn set(value: &mut Value, option: &str, to: &Value) -> bool {
    match value {
        Value::Object(options) => match options.get_mut(option) {
            Some(value) => {
                *value = to.clone();
                true
            }
            None => any(options.values_mut(), option, to),
        },
        Value::Array(steps) => any(steps.iter_mut(), option, to),
        _ => false,
    }
}

/// Sets an option in each of several, not only in the first.
fn any<'a>(values: impl Iterator<Item = &'a mut Value>, option: &str, to: &Value) -> bool {
    values
        .filter_map(|value| set(value, option, to).then_some(()))
        .count()
        > 0
}

/// Names of all options.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(options) => {
            for (name, value) in options {
                names.insert(name.clone());
                collect(value, names);
            }
        }
        Value::Array(steps) => steps.iter().for_each(|step| collect(step, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pipeline::{Factor, Magnitude, Prepare, Rescale, Scope};

    fn options(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn every_row_is_read_checked_and_written() {
        for (name, method) in methods() {
            assert!(!method.about.is_empty() && !method.paper.is_empty());
            let pipeline = Pipeline::named(name, &Map::new()).unwrap();
            assert_eq!(pipeline, method.pipeline);
            let text = toml::to_string(&pipeline).unwrap();
            assert_eq!(
                toml::from_str::<Pipeline>(&text).unwrap(),
                pipeline,
                "{text}"
            );
        }
    }

    #[test]
    fn options_are_set_where_they_are() {
        let set = options(json!({"density": 0.3, "scope": "model", "lambda": 2}));
        let ties = Pipeline::named("ties", &set).unwrap();
        let (density, scope) = (0.3, Scope::Model);
        assert_eq!(
            ties.prepare,
            [Prepare::Magnitude(Magnitude { density, scope })]
        );
        assert_eq!(ties.rescale, [Rescale::Factor(Factor { lambda: 2.0 })]);
        let stage = options(json!({"rescale": ["norm-match"]}));
        let matched = Pipeline::named("dare_ties", &stage).unwrap();
        assert_eq!(matched.rescale, [Rescale::NormMatch]);
    }

    #[test]
    fn what_is_unknown_is_refused_with_the_nearest() {
        let error = |name, set| {
            Pipeline::named(name, &options(set))
                .unwrap_err()
                .to_string()
        };
        assert!(error("tiess", json!({})).contains("the nearest is `ties`"));
        assert!(error("ties", json!({"densty": 0.1})).contains("the nearest is `density`"));
        assert!(error("ties", json!({"density": -0.1})).contains("density is -0.1"));
        assert!(error("ties", json!({"scope": "layer"})).contains("tensor"));
        assert!(toml::from_str::<Pipeline>("merge = 1").is_err());
        assert!(
            toml::from_str::<Pipeline>("prepare = [{magnitude = {density = 1, p = 2}}]").is_err()
        );
    }
}
