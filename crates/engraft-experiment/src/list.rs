//! Which experiments there are.

use std::path::Path;

use crate::{schema::Experiment, workspace};

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
            let read = Experiment::read(&workspace::file(root, &name));
            Entry {
                title: read.map_or_else(
                    |error| format!("not readable: {error}"),
                    |read| read.tables.title,
                ),
                has_results: out.join(&name).join("table.md").is_file(),
                name,
            }
        })
        .collect()
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
