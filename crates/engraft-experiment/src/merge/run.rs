//! A recipe from end to end.

use std::path::Path;

use engraft_merge::adapter::host_form;
use engraft_merge::base::Base;
use engraft_merge::recipe::{Merger, Outcome, Recipe};
use tempfile::TempDir;

use super::search::search;
use super::{export_deltas, report};
use crate::adapt::{beside, check_free, place};
use crate::{Error, Result};

/// Name of the page of a merge in its directory.
pub const REPORT: &str = "report.html";

/// How far a merge is.
pub trait Watch {
    /// An adapter without a host form is loaded on its base, and its deltas are exported.
    fn exporting(&mut self, adapter: &str);

    /// So many evaluations of a search for weights are done, of so many at most.
    fn searching(&mut self, done: usize, all: usize);

    /// So many modules will be merged.
    fn modules(&mut self, count: usize);

    /// One more is.
    fn merged(&mut self, module: &str);
}

/// Merges the adapters of a recipe's file into a directory, which appears when it is complete. Adapters
/// that have no host form are exported as deltas first, which takes the recipe's base. With `report` the
/// adapters are diagnosed, and a page with tables and plots is written beside the result.
///
/// # Errors
/// A recipe, adapter or base that cannot be used; an `out` that is not empty. Nothing was written then.
pub fn merge(
    recipe: &Path,
    out: &Path,
    with_report: bool,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    check_free(out)?;
    let mut recipe = Recipe::read(recipe).map_err(input)?;
    let exported = exported(&mut recipe, out, watch)?;
    let base = recipe.base.as_deref().map(Base::open).transpose();
    let base = base.map_err(input)?;
    let base = match (base, recipe.base.as_deref()) {
        (Some(base), Some(path)) => Some(base.with_aliases(engraft_models::stored_modules(path))),
        (base, _) => base,
    };
    let mut merger = Merger::open(&recipe, base).map_err(input)?;
    if let Some(searching) = &recipe.search {
        search(&mut merger, &recipe, searching, out, watch)?;
    }
    watch.modules(merger.modules().len());
    let folder = beside(out)?;
    let written = merger.write(&recipe, folder.path(), with_report, &mut |module| {
        watch.merged(module);
    });
    let mut outcome = written.map_err(input)?;
    outcome.warnings.extend(exported.warnings);
    if with_report {
        let page = report::html(&recipe, &outcome)?;
        let path = folder.path().join(REPORT);
        std::fs::write(&path, page).map_err(|error| Error::io("write", &path, &error))?;
    }
    place(folder, out)?;
    Ok(outcome)
}

/// What was exported, as long as it is needed.
struct Exports {
    warnings: Vec<String>,
    _folder: Option<TempDir>,
}

/// Puts deltas in the place of adapters that have no host form.
fn exported(recipe: &mut Recipe, out: &Path, watch: &mut dyn Watch) -> Result<Exports> {
    let mut exports = Exports {
        warnings: Vec::new(),
        _folder: None,
    };
    let mut folder = None;
    for adapter in &mut recipe.adapters {
        // What is no adapter at all is said when it is opened.
        let Some(base) = &recipe.base else { continue };
        let Ok(Err(reason)) = host_form(&adapter.path) else {
            continue;
        };
        if adapter.init.is_some() {
            continue;
        }
        let name = adapter.name();
        watch.exporting(&name);
        let folder = match &folder {
            Some(folder) => folder,
            None => folder.insert(beside(out)?),
        };
        let to = folder.path().join(&name);
        let done = export_deltas(base, &adapter.path, &to)
            .map_err(|error| Error::Input(format!("adapter `{name}` ({reason}): {error}")))?;
        let warnings = done.warnings.into_iter();
        exports
            .warnings
            .extend(warnings.map(|warning| format!("`{name}`: {warning}")));
        adapter.path = to;
        adapter.name = Some(name);
    }
    exports._folder = folder;
    Ok(exports)
}

pub(super) fn input(error: impl std::fmt::Display) -> Error {
    Error::Input(error.to_string())
}
