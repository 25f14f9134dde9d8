//! The file of such an experiment: strict TOML.

use std::{
    collections::BTreeSet,
    fmt::Display,
    path::{Path, PathBuf},
};

use engraft_data::Domain;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;

use crate::{
    diagnosis::{line_of, with_nearest},
    error::{Error, Result},
};

/// The value of `kind` in such a file.
const KIND: &str = "composition";
/// The name of the row of the model without adapters.
pub const BASE: &str = "base";
/// The name of the mean of all measures.
pub const SCORE: &str = "score";

/// An experiment as written.
#[derive(Debug, Clone)]
pub struct Composition {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Its tables.
    pub tables: Tables,
}

/// The tables of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// `composition`.
    pub kind: String,
    /// One line.
    pub title: String,
    /// What is added to what, and what the paper found.
    pub description: String,
    /// Where the paper has it.
    pub source: String,
    /// The device when the command line names none.
    #[serde(default = "flex")]
    pub device: String,
    /// `[protocol]`
    pub protocol: Protocol,
    /// `[quick]`
    #[serde(default)]
    pub quick: Quick,
    /// `[[method]]`
    #[serde(rename = "method")]
    pub methods: Vec<Method>,
    /// `[[data]]`
    pub data: Vec<Data>,
    /// `[[adapter]]`
    #[serde(rename = "adapter")]
    pub adapters: Vec<Adapter>,
    /// `[sum]`
    pub sum: Sum,
    /// `[[measure]]`
    #[serde(rename = "measure")]
    pub measures: Vec<Measure>,
    /// `[[claim]]`
    #[serde(rename = "claim")]
    pub claims: Vec<Claim>,
}

fn flex() -> String {
    "flex".to_owned()
}

/// What is the same for every method and adapter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// The seeds: of starting values, which the adapters of a run share, and of the drawn examples.
    pub seeds: Spanned<Vec<u64>>,
    /// Updates.
    pub steps: u64,
    /// Images per update.
    pub batch_size: usize,
    /// Updates of warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// Images per class that a draw takes.
    pub images_per_class: usize,
    /// The values of lambda. One is chosen for each method and form, by the mean score on validation
    /// images.
    pub lambdas: Spanned<Vec<f64>>,
}

/// What `--quick` shortens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quick {
    /// Number of seeds.
    pub seeds: usize,
    /// Updates.
    pub steps: u64,
}

impl Default for Quick {
    fn default() -> Self {
        Self { seeds: 2, steps: 5 }
    }
}

/// How adapters are trained: LoRA or (IA)^3.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Its id in the registry.
    pub id: String,
    /// The name of its rows.
    pub label: String,
    /// Its configuration.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Which layers it adapts.
    #[serde(default)]
    pub targets: Value,
    /// The largest learning rate.
    pub learning_rate: f64,
}

/// What the images are to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Their digits.
    #[default]
    Digits,
    /// Every odd digit for the next one: [`Domain::Relabelled`].
    Relabelled,
    /// What the model takes the upright image for: no label is read.
    Own,
}

/// Images to learn from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Its name.
    pub name: String,
    /// How the images are changed.
    pub images: Domain,
    /// What they are to be taken for.
    #[serde(default)]
    pub labels: Labels,
    /// Digits of which `part` is taken; all by default.
    #[serde(default = "all")]
    pub digits: Vec<u8>,
    /// Which part of a digit's drawn images, from 0 to 1.
    #[serde(default = "whole")]
    pub part: [f64; 2],
    /// Which part of the images of every other digit.
    #[serde(default)]
    pub others: [f64; 2],
}

fn all() -> Vec<u8> {
    (0..10).collect()
}

fn whole() -> [f64; 2] {
    [0.0, 1.0]
}

/// An adapter and what it is trained on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// Names of data.
    pub data: Vec<String>,
}

/// The sum.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sum {
    /// As a formula.
    pub formula: String,
    /// `[[sum.term]]`
    #[serde(rename = "term")]
    pub terms: Vec<Term>,
}

/// A term c theta of the sum, c = from + lambda (to - from).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Name of the adapter.
    pub adapter: String,
    /// c where lambda is 0.
    pub from: f64,
    /// c where lambda is 1.
    pub to: f64,
}

impl Term {
    /// c.
    #[must_use]
    pub fn coefficient(&self, lambda: f64) -> f64 {
        self.from + lambda * (self.to - self.from)
    }
}

/// A share of images that the model takes for what they are to be taken for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Its name.
    pub name: String,
    /// How the images are changed.
    pub images: Domain,
    /// What they are to be taken for.
    #[serde(default)]
    pub labels: Labels,
    /// Digits that are measured; all by default.
    #[serde(default = "all")]
    pub digits: Vec<u8>,
    /// Whether it is to fall.
    #[serde(default)]
    pub unwanted: bool,
}

/// What the paper says of the sum: that it is better than some rows, or not worse.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// A measure, or `score`.
    pub measure: String,
    /// Names of adapters, or `base`.
    pub better_than: Vec<String>,
    /// How much worse it may be and count as the same, as a share.
    #[serde(default)]
    pub tolerance: f64,
}

/// Whether the text of an experiment's file says `kind = "composition"`.
#[must_use]
pub fn is_composition(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        kind: Option<String>,
    }
    toml::from_str::<Kind>(text).is_ok_and(|file| file.kind.as_deref() == Some(KIND))
}

impl Composition {
    /// Checks the text of the file `path`.
    ///
    /// # Errors
    /// A key, type, name or value that is not valid.
    pub fn parse(path: &Path, text: String) -> Result<Self> {
        let tables: Tables = toml::from_str(&text).map_err(|error| Error::Schema {
            path: path.to_owned(),
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            message: with_nearest(error.message()),
        })?;
        let file = Self {
            path: path.to_owned(),
            text,
            tables,
        };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<()> {
        let Tables {
            protocol,
            data,
            adapters,
            sum,
            measures,
            claims,
            ..
        } = &self.tables;
        if protocol.seeds.get_ref().is_empty() {
            return Err(self.error(&protocol.seeds, "`seeds` is empty, expected at least one"));
        }
        let lambdas = protocol.lambdas.get_ref();
        if lambdas.is_empty() || lambdas.iter().any(|lambda| !lambda.is_finite()) {
            let message = "`lambdas` is empty or not finite, expected numbers";
            return Err(self.error(&protocol.lambdas, message));
        }
        let data_names = self.names("data", data.iter().map(|data| &data.name))?;
        let mut adapter_names = self.names("adapter", adapters.iter().map(|one| &one.name))?;
        let mut measure_names = self.names("measure", measures.iter().map(|one| &one.name))?;
        self.names("method", self.tables.methods.iter().map(|one| &one.label))?;
        let known = |kind, found: &String, valid: &[String]| match valid.contains(found) {
            true => Ok(()),
            false => Err(Error::unknown(kind, found, valid)),
        };
        for adapter in adapters {
            if adapter.data.is_empty() {
                return Err(self.bad(format!("adapter `{}` has no data", adapter.name)));
            }
            for name in &adapter.data {
                known("data", name, &data_names)?;
            }
        }
        for term in &sum.terms {
            known("adapter", &term.adapter, &adapter_names)?;
        }
        for part in data.iter().flat_map(|data| [data.part, data.others]) {
            if !(0.0 <= part[0] && part[0] <= part[1] && part[1] <= 1.0) {
                return Err(self.bad(format!("part {part:?}: expected [from, to] within 0 and 1")));
            }
        }
        adapter_names.push(BASE.to_owned());
        measure_names.push(SCORE.to_owned());
        for claim in claims {
            known("measure", &claim.measure, &measure_names)?;
            for row in &claim.better_than {
                known("row", row, &adapter_names)?;
            }
        }
        Ok(())
    }

    /// The names of a table, each once and at least one.
    fn names<'a>(
        &self,
        table: &str,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<Vec<String>> {
        let names: Vec<String> = names.cloned().collect();
        let mut seen = BTreeSet::new();
        match names.iter().find(|name| !seen.insert(*name)) {
            Some(name) => Err(self.bad(format!("there are two [[{table}]] called `{name}`"))),
            None if names.is_empty() => Err(self.bad(format!("there is no [[{table}]]"))),
            None => Ok(names),
        }
    }

    fn error<T>(&self, at: &Spanned<T>, message: impl Display) -> Error {
        Error::Schema {
            path: self.path.clone(),
            line: line_of(&self.text, at.span().start),
            message: message.to_string(),
        }
    }

    fn bad(&self, message: String) -> Error {
        Error::Schema {
            path: self.path.clone(),
            line: 1,
            message,
        }
    }
}
