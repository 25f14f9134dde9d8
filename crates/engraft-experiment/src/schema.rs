//! The file of an experiment: strict TOML. A mistake is reported with its line and, for a name,
//! with the nearest valid one.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use crate::{
    diagnosis::{line_of, with_nearest},
    error::{Error, Result},
    spec::{BASE, ModelSpec, OptimizerName, Schedule},
};

/// An experiment as written.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// The file.
    pub path: PathBuf,
    /// Its text, for the report.
    pub text: String,
    /// Its tables.
    pub tables: Tables,
}

/// The tables of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// One line.
    pub title: String,
    /// What is compared and why.
    #[serde(default)]
    pub description: String,
    /// The device when the command line names none.
    #[serde(default = "default_device")]
    pub device: String,
    /// `[model]`
    pub model: ModelSpec,
    /// `[task]`
    pub task: Task,
    /// `[protocol]`
    pub protocol: Protocol,
    /// `[quick]`: what `--quick` shortens.
    #[serde(default)]
    pub quick: Quick,
    /// `[[method]]`
    #[serde(rename = "method")]
    pub methods: Vec<Method>,
}

fn no_seeds() -> Spanned<Vec<u64>> {
    Spanned::new(0..0, Vec::new())
}

fn default_device() -> String {
    "flex".to_owned()
}

/// The data and its shifted domains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The data set.
    pub data: String,
    /// The domains, each a task of its own.
    pub domains: Vec<Spanned<String>>,
    /// Labelled training images per class.
    pub labels_per_class: Spanned<usize>,
}

/// What is the same for every method.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// The paired seeds of the final runs.
    pub seeds: Spanned<Vec<u64>>,
    /// The seeds of the learning-rate trials, apart from those of the final runs.
    #[serde(default = "no_seeds")]
    pub trial_seeds: Spanned<Vec<u64>>,
    /// Updates.
    pub steps: Spanned<usize>,
    /// Images per update.
    pub batch_size: Spanned<usize>,
    /// The update rule.
    pub optimizer: OptimizerName,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// The learning rate after the warm-up.
    pub schedule: Schedule,
    /// Updates of warm-up.
    #[serde(default)]
    pub warmup: usize,
    /// Global norm of clipped gradients; without it nothing is clipped.
    pub clip_norm: Option<f64>,
}

/// What `--quick` runs: the first domain, the middle learning rate without trials, and these.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quick {
    /// Updates.
    pub steps: usize,
    /// Number of seeds.
    pub seeds: usize,
}

impl Default for Quick {
    fn default() -> Self {
        Self {
            steps: 10,
            seeds: 2,
        }
    }
}

/// A method to compare.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Its id in the registry.
    pub id: Spanned<String>,
    /// The name of its row; the id by default.
    pub label: Option<String>,
    /// Its configuration.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Which layers it adapts; the method's default when absent.
    #[serde(default)]
    pub targets: Value,
    /// The learning rates to choose from, as many as for every other method.
    pub learning_rates: Spanned<Vec<f64>>,
    /// The accuracy that the paper states, in %.
    pub published: Option<f64>,
    /// Set when the row cannot be run on an ordinary machine: it is shown and not run.
    #[serde(default)]
    pub needs_larger_machine: bool,
}

impl Method {
    /// The name of the row.
    #[must_use]
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(self.id.get_ref())
    }
}

impl Experiment {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// An unreadable file; a key, type or value that is not valid, with its line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
        Self::parse(path, text)
    }

    /// Checks the text of the file `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(path: &Path, text: String) -> Result<Self> {
        let tables = toml::from_str(&text).map_err(|error| Error::Schema {
            path: path.to_owned(),
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            message: with_nearest(error.message()),
        })?;
        let experiment = Self {
            path: path.to_owned(),
            text,
            tables,
        };
        experiment.check()?;
        Ok(experiment)
    }

    /// An error at the place of a value.
    #[must_use]
    pub fn error<T>(&self, at: &Spanned<T>, message: impl Display) -> Error {
        Error::Schema {
            path: self.path.clone(),
            line: line_of(&self.text, at.span().start),
            message: message.to_string(),
        }
    }

    fn check(&self) -> Result<()> {
        let Tables {
            task,
            protocol,
            methods,
            ..
        } = &self.tables;
        for (name, value) in [
            ("labels_per_class", &task.labels_per_class),
            ("steps", &protocol.steps),
            ("batch_size", &protocol.batch_size),
        ] {
            if *value.get_ref() == 0 {
                return Err(self.error(value, format!("`{name}` is 0, expected at least 1")));
            }
        }
        if protocol.warmup > *protocol.steps.get_ref() {
            let message = format!(
                "`warmup` is {}, expected at most `steps` = {}",
                protocol.warmup,
                protocol.steps.get_ref()
            );
            return Err(self.error(&protocol.steps, message));
        }
        if task.domains.is_empty() {
            return Err(self.error(
                &task.labels_per_class,
                "`domains` is empty, expected at least one",
            ));
        }
        let mut domains = BTreeSet::new();
        for domain in &task.domains {
            if !domains.insert(domain.get_ref()) {
                return Err(self.error(
                    domain,
                    format!("domain `{}` is listed twice", domain.get_ref()),
                ));
            }
        }
        self.check_seeds()?;
        self.check_methods(methods)
    }

    fn check_seeds(&self) -> Result<()> {
        let Protocol {
            seeds, trial_seeds, ..
        } = &self.tables.protocol;
        if seeds.get_ref().is_empty() {
            return Err(self.error(seeds, "`seeds` is empty, expected at least one"));
        }
        let mut seen = BTreeSet::new();
        for list in [seeds, trial_seeds] {
            for seed in list.get_ref() {
                if !seen.insert(seed) {
                    let message = format!(
                        "seed {seed} is listed twice: final runs and learning-rate trials need seeds of their own"
                    );
                    return Err(self.error(list, message));
                }
            }
        }
        Ok(())
    }

    fn check_methods(&self, methods: &[Method]) -> Result<()> {
        let mut labels = BTreeSet::new();
        for method in methods {
            if method.id.get_ref() == BASE {
                return Err(self.error(&method.id, "the row `base` is always there: leave it out"));
            }
            if !labels.insert(method.label()) {
                let message = format!(
                    "two methods are called `{}`: give one a `label`",
                    method.label()
                );
                return Err(self.error(&method.id, message));
            }
            let rates = method.learning_rates.get_ref();
            if let Some(rate) = rates
                .iter()
                .find(|rate| !(rate.is_finite() && **rate > 0.0))
            {
                let message = format!("learning rate {rate}, expected a positive number");
                return Err(self.error(&method.learning_rates, message));
            }
            let expected = methods[0].learning_rates.get_ref().len();
            if rates.len() != expected || rates.is_empty() {
                let message = format!(
                    "method `{}` has {} learning rates and `{}` has {expected}: a fair comparison gives every method the same number of trials, at least one",
                    method.label(),
                    rates.len(),
                    methods[0].label(),
                );
                return Err(self.error(&method.learning_rates, message));
            }
            let trials = &self.tables.protocol.trial_seeds;
            if rates.len() > 1 && trials.get_ref().is_empty() {
                let message =
                    "`trial_seeds` is missing: learning rates are chosen on runs of their own";
                return Err(self.error(&method.learning_rates, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const EXAMPLE: &str = r#"title = "An example"
[model]
preset = "digits-vit"
[task]
data = "digits"
domains = ["quarter-turn", "relabelled"]
labels_per_class = 10
[protocol]
seeds = [0, 1, 2]
trial_seeds = [100]
steps = 40
batch_size = 50
optimizer = "adamw"
schedule = "cosine"
[[method]]
id = "lora"
config = { rank = 4 }
learning_rates = [1e-3, 1e-2]
[[method]]
id = "full"
learning_rates = [1e-4, 1e-3]
"#;

    pub(crate) fn parse(text: &str) -> Result<Experiment> {
        Experiment::parse(Path::new("e.toml"), text.to_owned())
    }

    fn message(from: &str, to: &str) -> String {
        assert!(EXAMPLE.contains(from));
        parse(&EXAMPLE.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn a_good_file_is_read() {
        let tables = parse(EXAMPLE).unwrap().tables;
        assert_eq!(tables.methods[0].config["rank"], 4);
        assert_eq!(tables.methods[0].targets, Value::Null);
        assert_eq!(tables.device, "flex");
    }

    #[test]
    fn mistakes_are_reported_with_line_and_nearest_name() {
        for (from, to, expected) in [
            (
                "batch_size",
                "batchsize",
                "e.toml:12: unknown key `batchsize`: the nearest is `batch_size`",
            ),
            (
                "\"adamw\"",
                "\"adam\"",
                "e.toml:13: unknown variant `adam`: the nearest is `adamw`",
            ),
            ("steps = 40", "steps = 0", "e.toml:11: `steps` is 0"),
            ("steps = 40", "steps = -1", "e.toml:11: "),
            ("steps = 40", "", "missing field `steps`"),
            ("[100]", "[2]", "e.toml:10: seed 2 is listed twice"),
            ("[100]", "[]", "`trial_seeds` is missing"),
            ("[0, 1, 2]", "[]", "e.toml:9: `seeds` is empty"),
            (
                "relabelled",
                "quarter-turn",
                "e.toml:6: domain `quarter-turn` is listed twice",
            ),
            (
                "[1e-4, 1e-3]",
                "[1e-4]",
                "e.toml:21: method `full` has 1 learning rates and `lora` has 2",
            ),
            (
                "[1e-4, 1e-3]",
                "[1e-4, -1.0]",
                "e.toml:21: learning rate -1",
            ),
            (
                "\"full\"",
                "\"lora\"",
                "e.toml:20: two methods are called `lora`",
            ),
            ("\"full\"", "\"base\"", "e.toml:20: the row `base`"),
        ] {
            let message = message(from, to);
            assert!(message.contains(expected), "{message}\nexpected {expected}");
        }
    }
}
