//! The file of a paper's parameter tables: strict TOML with settings and published numbers.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

use engraft_core::Targets;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use crate::{
    diagnosis::{line_of, with_nearest},
    error::{Error, Result},
};

/// The value of `kind` in such a file.
const KIND: &str = "counts";

/// Parameter tables as written.
#[derive(Debug, Clone)]
pub struct CountsFile {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Its tables.
    pub tables: CountsTables,
}

/// The tables of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountsTables {
    /// `counts`.
    pub kind: String,
    /// One line.
    pub title: String,
    /// Where the numbers are printed.
    pub source: String,
    /// `[[row]]`
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
}

/// A published number and how it comes about.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The method as the paper prints it.
    pub method: Spanned<String>,
    /// The model as the paper prints it.
    pub model: String,
    /// The preset that is counted on.
    pub preset: Option<String>,
    /// The setting in words.
    pub setting: String,
    /// The published number with its printed digits.
    pub published: Option<Figure>,
    /// How many digits of a round figure count, all of them by default.
    pub significant: Option<u32>,
    /// What a percentage is a share of.
    pub of: Option<Of>,
    /// The count as a formula.
    #[serde(default)]
    pub formula: String,
    /// Where the number is printed, where that differs from the file's source.
    pub source: Option<String>,
    /// How the setting and the number are known.
    #[serde(default)]
    pub provenance: Provenance,
    /// Why the numbers differ, or what else to know.
    pub note: Option<String>,
    /// What the paper counts instead, where it counts something that no option of the method
    /// counts.
    pub convention: Option<String>,
    /// The method that is not registered yet.
    pub awaits: Option<String>,
    /// The adapters, added up.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// How often the paper counts the preset's own head.
    #[serde(default)]
    pub model_heads: usize,
    /// A head of another size.
    pub head: Option<Head>,
    /// Parameters of the model that are trained along: `norms`, or regular expressions over whole
    /// paths of parameters.
    #[serde(default)]
    pub also: Vec<String>,
}

/// A method where it is put.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The method's id in the registry.
    pub id: String,
    /// Its configuration.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Its layers or sites; the method's own by default.
    #[serde(default)]
    pub targets: Targets,
    /// Which of its counts.
    #[serde(default)]
    pub count: Taken,
    /// Factor of the count: layers that the preset has joined into one, or several adapters of one
    /// shape.
    #[serde(default = "one")]
    pub times: usize,
    /// Divisor of the count: values that are stored in fewer bytes.
    #[serde(default = "one")]
    pub per: usize,
}

fn one() -> usize {
    1
}

/// Which count of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Taken {
    /// Everything that is trained.
    #[default]
    Trained,
    /// What is trained and shared between layers.
    Shared,
    /// What the adapter file holds.
    Stored,
    /// What the adapter file holds, without what is shared between layers.
    StoredOfLayers,
}

/// A linear head with an offset, (inputs + 1) classes / tasks values, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Inputs.
    pub inputs: usize,
    /// Classes of all tasks together.
    pub classes: usize,
    /// Tasks, of which the mean is counted.
    #[serde(default = "one")]
    pub tasks: usize,
}

impl Head {
    /// Its values.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.inputs + 1) * self.classes / self.tasks.max(1)
    }
}

/// What a percentage is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// The model.
    Base,
    /// The model with the adapter.
    BaseAndAdapter,
}

/// How a setting and a published number are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// The paper or its code states the setting.
    #[default]
    Stated,
    /// The setting was inferred, because it gives the published number.
    Fitted,
    /// The published number was remembered and not read again.
    Recalled,
    /// Both.
    FittedRecalled,
}

impl Display for Provenance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Stated => "stated",
            Self::Fitted => "fitted",
            Self::Recalled => "recalled",
            Self::FittedRecalled => "fitted, recalled",
        })
    }
}

/// A published number, written as a whole number or as text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Figure {
    /// `9175040`
    Number(u64),
    /// `"26.2M"`
    Text(String),
}

impl Display for Figure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(formatter),
            Self::Text(text) => text.fmt(formatter),
        }
    }
}

/// Whether the text of an experiment's file says `kind = "counts"`.
#[must_use]
pub fn is_counts(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        kind: Option<String>,
    }
    toml::from_str::<Kind>(text).is_ok_and(|file| file.kind.as_deref() == Some(KIND))
}

impl CountsFile {
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
        let tables: CountsTables = toml::from_str(&text).map_err(|error| Error::Schema {
            path: path.to_owned(),
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            message: with_nearest(error.message()),
        })?;
        let file = Self {
            path: path.to_owned(),
            text,
            tables,
        };
        for row in &file.tables.rows {
            file.check(row)
                .map_err(|message| file.error(row, message))?;
        }
        Ok(file)
    }

    /// An error at a row.
    #[must_use]
    pub fn error(&self, row: &Row, message: impl Display) -> Error {
        Error::Schema {
            path: self.path.clone(),
            line: line_of(&self.text, row.method.span().start),
            message: format!("row `{}`: {message}", row.method.get_ref()),
        }
    }

    fn check(&self, row: &Row) -> std::result::Result<(), String> {
        if self.tables.kind != KIND {
            return Err(format!("kind `{}`, expected `{KIND}`", self.tables.kind));
        }
        let computed = !row.parts.is_empty();
        if computed && row.preset.is_none() {
            return Err("it has `parts` and no `preset` to count them on".to_owned());
        }
        if computed && row.awaits.is_some() {
            return Err("it has `parts`, so that `awaits` has no meaning".to_owned());
        }
        if !computed && row.awaits.is_none() && row.note.is_none() {
            return Err(
                "it has neither `parts` nor `awaits`: say in `note` why it cannot be computed"
                    .to_owned(),
            );
        }
        if row.parts.iter().any(|part| part.per == 0) {
            return Err("`per` is 0, expected at least 1".to_owned());
        }
        Ok(())
    }
}
