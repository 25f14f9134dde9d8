//! Which stored tensor is which parameter.

use std::collections::{BTreeMap, BTreeSet};

use engraft_tensor::suggestion;

use super::LoadReport;
use super::files::Place;
use super::listed;
use super::names::Names;
use crate::parts::Wanted;

/// The stored tensor of each parameter that has one, by path in the model; and what was left over.
#[derive(Debug, Default)]
pub(super) struct Matches {
    /// Names in the files, by path.
    pub found: BTreeMap<String, String>,
    /// What starts fresh, and what has no use.
    pub report: LoadReport,
}

/// Finds the tensor of each parameter. Where `fresh_head`, parameters of a head that the checkpoint
/// lacks or has in another shape start fresh.
///
/// # Errors
/// All tensors that are missing, unexpected or of another shape.
pub(super) fn matches(
    wanted: &[Wanted],
    tensors: &BTreeMap<String, Place>,
    names: &Names,
    fresh_head: bool,
) -> Result<Matches, String> {
    let mut stored: BTreeMap<String, &str> = BTreeMap::new();
    let mut wrong = Vec::new();
    for name in tensors.keys() {
        if let Some(other) = stored.insert(names.path(name), name) {
            wrong.push(format!("{other} and {name} are the same parameter"));
        }
    }
    let alias = |path: &str| {
        let of = names.aliases.iter().filter(|(_, own)| *own == path);
        of.map(|(alias, _)| *alias)
            .find_map(|alias| stored.get(alias))
    };

    let (mut matches, mut missing, mut shapes) = (Matches::default(), Vec::new(), Vec::new());
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for wanted in wanted {
        let path = names.bare(&wanted.path);
        let may_be_fresh = fresh_head && names.is_head(path);
        match stored.get(path).or_else(|| alias(path)) {
            Some(name) if tensors[*name].shape == wanted.stored => {
                used.insert(name);
                matches
                    .found
                    .insert(wanted.path.clone(), (*name).to_owned());
            }
            Some(_) | None if may_be_fresh => matches.report.fresh.push(wanted.path.clone()),
            Some(name) => {
                used.insert(name);
                shapes.push(format!(
                    "{name} has shape {:?}, expected {:?}",
                    tensors[*name].shape, wanted.stored
                ));
            }
            None => missing.push(names.file(&wanted.path)),
        }
    }

    let known: Vec<String> = wanted
        .iter()
        .map(|wanted| names.file(&wanted.path))
        .collect();
    let mut unexpected = Vec::new();
    for (path, name) in &stored {
        let aliased = names.aliases.iter().any(|(alias, _)| alias == path);
        if used.contains(name) || names.is_buffer(path) || aliased {
            continue;
        }
        if names.is_head(path) {
            matches.report.unused.push((*name).to_owned());
        } else {
            let candidates = if missing.is_empty() { &known } else { &missing };
            let nearest = suggestion(name, candidates.iter().map(String::as_str));
            let nearest = nearest.trim_start_matches("; ");
            unexpected.push(match nearest {
                "" => (*name).to_owned(),
                nearest => format!("{name} ({nearest})"),
            });
        }
    }

    for (what, list) in [
        ("missing", &missing),
        ("unexpected", &unexpected),
        ("of another shape", &shapes),
    ] {
        if !list.is_empty() {
            wrong.push(format!("{what}: {}", listed(list)));
        }
    }
    match wrong.is_empty() {
        true => Ok(matches),
        false => Err(format!(
            "tensors do not fit config.json; {}",
            wrong.join("; ")
        )),
    }
}
