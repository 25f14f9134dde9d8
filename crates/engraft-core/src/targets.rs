//! Which layers and sites a method is attached to.

use std::collections::BTreeMap;

use engraft_tensor::suggestion;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What is included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Include {
    /// What the method takes by default: its usual layers in a known architecture, every linear layer
    /// except the head in others, or its own sites.
    #[default]
    Default,
    /// Every linear layer except the head, whatever the method takes by default.
    AllLinear,
    /// Names: a path that is the name or ends in `.name`. Each must match something.
    Names(Vec<String>),
    /// A regular expression over the whole path.
    Regex(String),
}

/// The targets of a method.
///
/// In a configuration: `"default"`, `"all-linear"`, a regular expression as a string, a list of names, or a
/// table with any of the keys `include`, `exclude`, `layers`, `rank-pattern`, `alpha-pattern`,
/// `config-pattern`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Targets {
    /// What is included.
    pub include: Include,
    /// Names that are left out, read as in [`Include::Names`].
    pub exclude: Vec<String>,
    /// Only these layer indices (the first number in a path), when not empty.
    pub layers: Vec<usize>,
    /// Rank for paths matching a pattern: a name or regular expression over the end of the path,
    /// or over the whole path when it begins with `^`.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alpha for paths matching a pattern.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Any configuration keys for paths matching a pattern.
    pub config_pattern: BTreeMap<String, Map<String, Value>>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    include: Value,
    exclude: Vec<String>,
    layers: Vec<usize>,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f64>,
    config_pattern: BTreeMap<String, Map<String, Value>>,
}

impl TryFrom<Value> for Targets {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(_) => {
                let table: Table =
                    serde_json::from_value(value).map_err(|error| format!("targets: {error}"))?;
                Ok(Self {
                    include: include_from(table.include)?,
                    exclude: table.exclude,
                    layers: table.layers,
                    rank_pattern: table.rank_pattern,
                    alpha_pattern: table.alpha_pattern,
                    config_pattern: table.config_pattern,
                })
            }
            other => Ok(Self {
                include: include_from(other)?,
                ..Self::default()
            }),
        }
    }
}

impl From<Targets> for Value {
    fn from(targets: Targets) -> Self {
        let include = match targets.include {
            Include::Default => Self::Null,
            Include::AllLinear => Self::String(ALL_LINEAR.to_owned()),
            Include::Regex(regex) => Self::String(regex),
            Include::Names(names) => names.into(),
        };
        let Targets {
            exclude,
            layers,
            rank_pattern,
            alpha_pattern,
            config_pattern,
            ..
        } = targets;
        let bare = exclude.is_empty()
            && layers.is_empty()
            && rank_pattern.is_empty()
            && alpha_pattern.is_empty()
            && config_pattern.is_empty();
        if bare && include != Self::Null {
            return include;
        }
        serde_json::to_value(Table {
            include,
            exclude,
            layers,
            rank_pattern,
            alpha_pattern,
            config_pattern,
        })
        .expect("plain data")
    }
}

fn include_from(value: Value) -> Result<Include, String> {
    match value {
        Value::Null => Ok(Include::Default),
        Value::String(text) if text == "default" => Ok(Include::Default),
        Value::String(text) if text == ALL_LINEAR => Ok(Include::AllLinear),
        Value::String(regex) => Ok(Include::Regex(regex)),
        Value::Array(names) => names
            .into_iter()
            .map(|name| match name {
                Value::String(name) => Ok(name),
                other => Err(format!("targets: expected a name, found {other}")),
            })
            .collect::<Result<_, _>>()
            .map(Include::Names),
        other => Err(format!(
            "targets: expected \"all-linear\", a regular expression, a list of names or a table, found {other}"
        )),
    }
}

/// How [`Include::AllLinear`] is written.
const ALL_LINEAR: &str = "all-linear";

/// A layer's own configuration keys where patterns give them.
pub type Overrides = Map<String, Value>;

impl Targets {
    /// Layers named in a list.
    pub fn names(names: &[&str]) -> Self {
        Self {
            include: Include::Names(names.iter().map(|name| (*name).to_owned()).collect()),
            ..Self::default()
        }
    }

    /// Layers whose whole path matches a regular expression.
    pub fn regex(regex: &str) -> Self {
        Self {
            include: Include::Regex(regex.to_owned()),
            ..Self::default()
        }
    }

    /// The paths that are targeted, in order. `defaults` says which are taken when nothing is
    /// included explicitly.
    ///
    /// # Errors
    /// A malformed expression, or a pattern that matches nothing; the message names the nearest paths.
    pub fn select<'a>(
        &self,
        paths: &[&'a str],
        what: &'static str,
        defaults: impl Fn(&str) -> bool,
    ) -> Result<Vec<&'a str>> {
        let included: Vec<&str> = match &self.include {
            Include::Default | Include::AllLinear => paths
                .iter()
                .copied()
                .filter(|path| defaults(path))
                .collect(),
            Include::Regex(pattern) => {
                let regex = anchored(pattern)?;
                let found: Vec<&str> = paths
                    .iter()
                    .copied()
                    .filter(|path| regex.is_match(path))
                    .collect();
                nonempty(found, pattern, what, paths)?
            }
            Include::Names(names) => {
                for name in names {
                    let named = paths.iter().copied().filter(|path| is_named(path, name));
                    nonempty(named.collect(), name, what, paths)?;
                }
                paths
                    .iter()
                    .copied()
                    .filter(|path| names.iter().any(|name| is_named(path, name)))
                    .collect()
            }
        };
        let kept: Vec<&str> = included
            .into_iter()
            .filter(|path| !self.exclude.iter().any(|name| is_named(path, name)))
            .filter(|path| {
                self.layers.is_empty()
                    || layer_index(path).is_some_and(|index| self.layers.contains(&index))
            })
            .collect();
        if kept.is_empty() && self == &Self::default() {
            return Err(Error::NoTarget {
                pattern: "the usual ones of the method".to_owned(),
                what,
                suggestion: String::new(),
            });
        }
        nonempty(kept, &Value::from(self.clone()).to_string(), what, paths)
    }

    /// These targets where something is included explicitly; otherwise `usual` ones, with what these
    /// leave out and set on top.
    pub(crate) fn or(&self, usual: Option<Self>) -> Self {
        let (Include::Default, Some(usual)) = (&self.include, usual) else {
            return self.clone();
        };
        let mut targets = self.clone();
        targets.include = usual.include;
        for (pattern, keys) in usual.config_pattern {
            targets.config_pattern.entry(pattern).or_insert(keys);
        }
        targets
    }

    /// The settings of the layer at `path`.
    ///
    /// # Errors
    /// A malformed pattern.
    pub fn overrides(&self, path: &str) -> Result<Overrides> {
        let mut overrides = first_match(&self.config_pattern, path)?
            .cloned()
            .unwrap_or_default();
        if let Some(rank) = first_match(&self.rank_pattern, path)? {
            overrides.insert("rank".to_owned(), (*rank).into());
        }
        if let Some(alpha) = first_match(&self.alpha_pattern, path)? {
            overrides.insert("alpha".to_owned(), (*alpha).into());
        }
        Ok(overrides)
    }
}

fn anchored(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| Error::BadPattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })
}

fn first_match<'a, T>(patterns: &'a BTreeMap<String, T>, path: &str) -> Result<Option<&'a T>> {
    for (pattern, value) in patterns {
        let (anywhere, inner) = match pattern.strip_prefix('^') {
            Some(whole) => ("", whole),
            None => (r"(?:.*\.)?", pattern.as_str()),
        };
        if anchored(&format!("{anywhere}(?:{})", inner.trim_end_matches('$')))?.is_match(path) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

pub(crate) fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// The index of the layer that a path belongs to: the first number in it.
pub fn layer_index(path: &str) -> Option<usize> {
    path.split('.').find_map(|part| part.parse().ok())
}

fn nonempty<'a>(
    found: Vec<&'a str>,
    pattern: &str,
    what: &'static str,
    paths: &[&str],
) -> Result<Vec<&'a str>> {
    if !found.is_empty() {
        return Ok(found);
    }
    // A short name is compared with last components, a path with paths.
    let last = |path: &&str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = if pattern.contains('.') {
        paths.iter().map(|path| (*path).to_owned()).collect()
    } else {
        paths.iter().map(last).collect()
    };
    names.sort();
    names.dedup();
    Err(Error::NoTarget {
        pattern: pattern.to_owned(),
        what,
        suggestion: suggestion(pattern, names.iter().map(String::as_str)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 5] = [
        "blocks.0.q_proj",
        "blocks.0.fc1",
        "blocks.1.q_proj",
        "blocks.1.fc1",
        "head",
    ];

    fn select(targets: Value) -> Result<Vec<&'static str>> {
        let targets: Targets = serde_json::from_value(targets).expect("valid targets");
        targets.select(&PATHS, "layer", |path| path != "head")
    }

    #[test]
    fn every_way_of_naming_layers() {
        use serde_json::json;
        assert_eq!(select(json!("all-linear")).unwrap().len(), 4);
        assert_eq!(
            select(json!(["q_proj"])).unwrap(),
            ["blocks.0.q_proj", "blocks.1.q_proj"]
        );
        assert_eq!(
            select(json!(r"blocks\.1\..*")).unwrap(),
            ["blocks.1.q_proj", "blocks.1.fc1"]
        );
        assert_eq!(
            select(json!({"exclude": ["fc1"], "layers": [1]})).unwrap(),
            ["blocks.1.q_proj"]
        );
    }

    #[test]
    fn an_expression_is_anchored_and_a_name_ends_at_a_dot() {
        use serde_json::json;
        assert!(select(json!("q_proj")).is_err());
        assert!(select(json!(["proj"])).is_err());
    }

    #[test]
    fn a_pattern_that_matches_nothing_names_the_nearest() {
        let message = select(serde_json::json!(["qproj"]))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("`qproj` matches no layer") && message.contains("q_proj"),
            "{message}"
        );
    }

    #[test]
    fn patterns_override_rank_and_alpha() {
        let targets: Targets = serde_json::from_value(serde_json::json!({"rank-pattern": {"0.fc1": 2}, "alpha-pattern": {"fc1": 4.0}, "config-pattern": {"1.fc1": {"dropout": 0.5}}})).unwrap();
        assert_eq!(
            Value::Object(targets.overrides("blocks.0.fc1").unwrap()),
            serde_json::json!({"rank": 2, "alpha": 4.0})
        );
        assert_eq!(
            Value::Object(targets.overrides("blocks.1.fc1").unwrap()),
            serde_json::json!({"dropout": 0.5, "alpha": 4.0})
        );
    }

    #[test]
    fn a_pattern_from_the_beginning_matches_the_whole_path_only() {
        let targets: Targets =
            serde_json::from_value(serde_json::json!({"rank-pattern": {r"^1\.fc1": 2}})).unwrap();
        assert!(targets.overrides("blocks.1.fc1").unwrap().is_empty());
        assert_eq!(targets.overrides("1.fc1").unwrap()["rank"], 2);
    }

    #[test]
    fn targets_survive_serialisation() {
        for value in [
            serde_json::json!(["a"]),
            serde_json::json!("x.*"),
            serde_json::json!({"exclude": ["b"], "layers": [0]}),
        ] {
            let targets: Targets = serde_json::from_value(value).unwrap();
            let back: Targets =
                serde_json::from_value(serde_json::to_value(&targets).unwrap()).unwrap();
            assert_eq!(targets, back);
        }
    }
}
