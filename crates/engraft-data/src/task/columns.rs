//! The columns of a file, found by their usual names.

use std::path::Path;

use crate::error::{DataError, Result};
use crate::names::{listed, nearest_is};
use crate::read::{Row, Source};

const TEXT: &[&str] = &[
    "text",
    "sentence",
    "sentence1",
    "content",
    "review",
    "document",
    "prompt",
    "question",
];
const LABEL: &[&str] = &[
    "label",
    "labels",
    "class",
    "category",
    "target",
    "gold_label",
    "sentiment",
    "score",
    "is_duplicate",
    "Quality",
];
pub(super) const PAIRS: &[(&str, &str)] = &[
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("query", "passage"),
    ("#1 String", "#2 String"),
];
pub(super) const TOKENS: &[&str] = &["tokens", "words"];
pub(super) const TAGS: &[&str] = &[
    "tags",
    "ner_tags",
    "pos_tags",
    "chunk_tags",
    "labels",
    "label",
];
pub(super) const MESSAGES: &[&str] = &["messages", "conversations", "conversation"];
pub(super) const PROMPT: &[&str] = &["prompt", "question", "query"];
pub(super) const COMPLETION: &[&str] = &["completion", "response", "answer", "chosen"];
pub(super) const INSTRUCTION: &[&str] = &["instruction"];
pub(super) const OUTPUT: &[&str] = &["output", "response", "answer"];

/// The columns of a file and its first usable row.
pub(super) struct Columns<'a> {
    path: &'a Path,
    pub first: Row,
}

impl<'a> Columns<'a> {
    pub fn of(source: &'a dyn Source) -> Result<Self> {
        let path = source.path();
        // Of unusable rows only the outer errors matter here: encoding reports the others.
        for row in source.rows()? {
            if let Ok(first) = row? {
                return Ok(Self { path, first });
            }
        }
        Err(DataError::NoRows {
            path: path.to_owned(),
        })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.first.columns.iter().map(String::as_str)
    }

    fn missing(&self, expected: String, nearest: String) -> DataError {
        DataError::MissingColumn {
            path: self.path.to_owned(),
            found: listed(self.names()),
            expected,
            nearest,
        }
    }

    /// The given column, which has to be there.
    pub fn given(&self, name: &str) -> Result<String> {
        match self.names().any(|column| column == name) {
            true => Ok(name.to_owned()),
            false => Err(self.missing(format!("{name:?}"), nearest_is(name, self.names()))),
        }
    }

    /// The given column, or the first of the usual ones, case aside; `setting` is what may name it.
    pub fn pick(&self, given: Option<&str>, setting: &str, usual: &[&str]) -> Result<String> {
        if let Some(name) = given {
            return self.given(name);
        }
        self.usual(usual).ok_or_else(|| {
            let expected = format!(
                "one of {}, or the setting `{setting}`",
                listed(usual.iter().copied())
            );
            self.missing(expected, String::new())
        })
    }

    /// The first of the usual columns that is there, case aside.
    pub fn usual(&self, usual: &[&str]) -> Option<String> {
        let find = |usual: &&str| self.names().find(|name| name.eq_ignore_ascii_case(usual));
        usual.iter().find_map(find).map(str::to_owned)
    }

    pub fn text(&self, given: Option<&str>) -> Result<String> {
        self.pick(given, "text", TEXT)
    }

    pub fn label(&self, given: Option<&str>) -> Result<String> {
        self.pick(given, "label", LABEL)
    }

    /// Both texts of a pair.
    pub fn pair(&self, first: Option<&str>, second: Option<&str>) -> Result<(String, String)> {
        if let (Some(first), Some(second)) = (first, second) {
            return Ok((self.given(first)?, self.given(second)?));
        }
        let fits = |given: Option<&str>, usual: &str| given.is_none_or(|name| name == usual);
        let pairs = PAIRS
            .iter()
            .filter(|(a, b)| fits(first, a) && fits(second, b));
        let found = |(a, b): &(&str, &str)| Some((self.usual(&[a])?, self.usual(&[b])?));
        pairs.clone().find_map(found).ok_or_else(|| {
            let pairs: Vec<String> = pairs.map(|(a, b)| format!("{a:?} with {b:?}")).collect();
            let expected = format!(
                "{}or the settings `first` and `second`",
                pairs
                    .iter()
                    .map(|pair| format!("{pair}, "))
                    .collect::<String>()
            );
            self.missing(expected, String::new())
        })
    }

    pub fn suggest_instruction(&self) -> bool {
        let has = |usual| self.usual(usual).is_some();
        has(MESSAGES) || (has(&["prompt"]) && has(COMPLETION)) || (has(INSTRUCTION) && has(OUTPUT))
    }

    pub fn suggest_tokens(&self) -> bool {
        self.usual(TOKENS).is_some() && self.usual(TAGS).is_some()
    }
}
