//! What files call modules whose names in memory are others.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::pretrained::Config;

/// The names that the checkpoint of a directory has for modules of its model that are called otherwise
/// in memory (ViT), by the name in memory. Empty for directories without a model that is known here.
pub fn stored_modules(directory: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(directory.join("config.json")).unwrap_or_default();
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let Ok(config) = Config::new(&json) else {
        return BTreeMap::new();
    };
    let names = config.names();
    let listed = config.listed();
    let module = |path: &str| path.rsplit_once('.').map(|(module, _)| module.to_owned());
    let paths = listed
        .iter()
        .flat_map(|wanted| [wanted.path.as_str(), names.bare(&wanted.path)]);
    paths
        .filter_map(|path| Some((module(path)?, module(&names.file(path))?)))
        .filter(|(module, stored)| module != stored)
        .collect()
}
