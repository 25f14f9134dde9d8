//! Which experiments there are.

use std::{fs, path::Path};

use crate::{
    composition::schema::{Composition, is_composition},
    counts::schema::{CountsFile, is_counts},
    error::{Error, Result},
    schema::Experiment,
    workspace,
};

/// An experiment in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its title, or what is wrong with its file.
    pub title: String,
    /// Whether a table was written.
    pub has_results: bool,
}

/// All experiments below the root, with results looked for in `out`.
#[must_use]
pub fn entries(root: &Path, out: &Path) -> Vec<Entry> {
    workspace::names(root)
        .into_iter()
        .map(|name| {
            let title = title(&workspace::file(root, &name));
            Entry {
                title: title.unwrap_or_else(|error| format!("not readable: {error}")),
                has_results: out.join(&name).join("table.md").is_file(),
                name,
            }
        })
        .collect()
}

fn title(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
    Ok(if is_counts(&text) {
        CountsFile::parse(path, text)?.tables.title
    } else if is_composition(&text) {
        Composition::parse(path, text)?.tables.title
    } else {
        Experiment::parse(path, text)?.tables.title
    })
}

/// The list as text, one experiment a line.
#[must_use]
pub fn text(entries: &[Entry]) -> String {
    let width = entries
        .iter()
        .map(|entry| entry.name.chars().count())
        .max()
        .unwrap_or(0);
    entries
        .iter()
        .map(|entry| {
            let results = if entry.has_results { "results" } else { "-" };
            format!("{:width$}  {results:7}  {}\n", entry.name, entry.title)
        })
        .collect()
}
