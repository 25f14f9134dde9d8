//! Whether adapters belong together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::way::names;
use super::{Missing, Source};
use crate::base::{Base, Layout};
use crate::error::{Error, Result};

/// Adapters of one base: what their files say of it does not differ. Names may differ for one model, so
/// that naming the base settles them; hashes may not.
pub(super) fn bases(sources: &[Source], base: Option<&Base>) -> Result<Vec<String>> {
    let told = |key: fn(&Value) -> Option<String>| {
        let of = sources.iter().filter_map(move |source| {
            let config = Value::Object(source.adapter().config().keys().clone());
            Some((source.name(), key(&config)?))
        });
        of.collect::<Vec<_>>()
    };
    let differ = |told: &[(&str, String)]| {
        let (first, of) = told.first()?;
        let (other, theirs) = told.iter().find(|(_, theirs)| theirs != of)?;
        Some(format!("`{first}` is for {of} and `{other}` for {theirs}"))
    };
    let hashes = told(|config| config["base"]["sha256"].as_str().map(str::to_owned));
    if let Some(differ) = differ(&hashes) {
        return Err(Error::input(format!(
            "different bases (sha256 of the weights): {differ}; adapters merge on one base"
        )));
    }
    let called = told(|config| {
        let name = &config["base_model_name_or_path"];
        let name = name.as_str().or(config["base"]["name"].as_str());
        name.filter(|name| !name.is_empty()).map(str::to_owned)
    });
    match (differ(&called), base) {
        (None, _) => Ok(Vec::new()),
        (Some(differ), Some(_)) => Ok(vec![format!("the adapters name different bases: {differ}")]),
        (Some(differ), None) => Err(Error::input(format!(
            "different bases: {differ}; if these are one model, say which with `base`"
        ))),
    }
}

/// The modules of any adapter, with the layout of their weights.
pub(super) fn modules(sources: &[Source], missing: Missing) -> Result<BTreeMap<String, Layout>> {
    let all = sources
        .iter()
        .flat_map(|source| source.adapter().modules().keys());
    let all: BTreeSet<&String> = all.collect();
    let mut modules = BTreeMap::new();
    for module in all {
        let mut known: Option<(&Source, &Layout)> = None;
        for source in sources {
            match (source.layout(module), known) {
                (Some(layout), None) => known = Some((source, layout)),
                (Some(layout), Some((first, of))) if layout != of => {
                    return Err(Error::module(
                        source.name(),
                        module,
                        format!(
                            "it is {layout:?} here and {of:?} in `{}`: `fan_in_fan_out` differs, or the models do",
                            first.name()
                        ),
                    ));
                }
                (None, _) if missing == Missing::Refuse => {
                    let have = sources
                        .iter()
                        .filter(|other| other.layout(module).is_some());
                    let have: Vec<String> =
                        have.map(|other| format!("`{}`", other.name())).collect();
                    return Err(Error::module(
                        source.name(),
                        module,
                        format!(
                            "it lacks the module, which {} has: `missing = \"zero\"` counts it as no change, \"skip\" leaves the adapter out there",
                            have.join(", ")
                        ),
                    ));
                }
                _ => {}
            }
        }
        if let Some((_, layout)) = known {
            modules.insert(module.clone(), layout.clone());
        }
    }
    Ok(modules)
}

/// Modules that the base lacks, or has with another shape than their updates.
pub(super) fn shapes(
    modules: &BTreeMap<String, Layout>,
    sources: &[Source],
    base: &Base,
) -> Result<()> {
    for (module, layout) in modules {
        base.shape(module, layout).map_err(|error| {
            let have = sources
                .iter()
                .find(|source| source.layout(module).is_some());
            let name = have.map_or_else(|| names(sources), |source| source.name().to_owned());
            Error::module(&name, module, error)
        })?;
    }
    Ok(())
}
