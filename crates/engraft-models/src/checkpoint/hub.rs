//! Checkpoints of the Hugging Face hub.

use std::path::{Path, PathBuf};

use engraft_core::{Error, Result};

/// The directory of a checkpoint: `name` itself if it is one, else the model of that id on the hub
/// (`owner/name`, or `owner/name@revision`), fetched into the usual cache. What the cache has is not
/// fetched again, and is used without a network.
///
/// # Errors
/// A name that is neither, a build without the feature `hub`, and whatever keeps files from coming.
pub fn locate(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    if !is_id(id) || revision.is_empty() {
        return Err(Error::Unsupported(format!(
            "found `{name}`, expected a directory with config.json, or a model of the hub as \
             owner/name or owner/name@revision"
        )));
    }
    fetch(id, revision)
}

/// Whether `id` is one or two names of letters, digits, `-`, `_` and `.`.
fn is_id(id: &str) -> bool {
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !name.is_empty() && name.chars().all(allowed) && name.chars().any(|c| c != '.')
    };
    id.split('/').count() <= 2 && id.split('/').all(is_name)
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &str, _: &str) -> Result<PathBuf> {
    Err(Error::Unsupported(format!(
        "found no directory `{id}`; models of the hub are fetched by a build with `--features hub`"
    )))
}

#[cfg(feature = "hub")]
fn fetch(id: &str, revision: &str) -> Result<PathBuf> {
    use hf_hub::api::sync::ApiBuilder;
    use hf_hub::{Cache, Repo, RepoType};

    let failed = |error: &dyn std::fmt::Display| {
        Error::Unsupported(format!("{id}@{revision} of the hub: {error}"))
    };
    let repository = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
    let cached = Cache::from_env().repo(repository.clone());
    let api = ApiBuilder::from_env()
        .build()
        .map_err(|error| failed(&error))?;
    let remote = api.repo(repository);
    let names: Vec<String> = match remote.info() {
        Ok(info) => info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect(),
        // Without a network, what was fetched before has to do.
        Err(error) => {
            let config = cached.get("config.json").ok_or_else(|| failed(&error))?;
            return Ok(directory_of(&config));
        }
    };
    for name in wanted(&names) {
        remote.get(name).map_err(|error| failed(&error))?;
    }
    let config = cached.get("config.json");
    config
        .map(|path| directory_of(&path))
        .ok_or_else(|| failed(&"found no config.json, expected a model of transformers"))
}

#[cfg(feature = "hub")]
fn directory_of(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// What of a repository's files a checkpoint consists of: configurations and tokenizer, and the weights
/// in one file or, where there is no such file, in several.
#[cfg(any(feature = "hub", test))]
fn wanted(names: &[String]) -> Vec<&str> {
    use super::files::{INDEX, SINGLE};

    const BESIDE: &[&str] = &[
        "config.json",
        "generation_config.json",
        "merges.txt",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    ];
    let single = names.iter().any(|name| name == SINGLE);
    let is_shard = |name: &str| name.starts_with("model-") && name.ends_with(".safetensors");
    let is_weight = |name: &str| match single {
        true => name == SINGLE,
        false => name == INDEX || is_shard(name),
    };
    let names = names.iter().map(String::as_str);
    names
        .filter(|name| BESIDE.contains(name) || is_weight(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_itself_and_nonsense_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().to_str().unwrap();
        assert_eq!(locate(name).unwrap(), directory.path());
        for name in [
            "",
            "../up",
            "a/b/c",
            "a b",
            "owner/name@",
            "...",
            "/nowhere/at/all",
        ] {
            assert!(locate(name).unwrap_err().to_string().contains("owner/name"));
        }
    }

    #[test]
    fn of_a_repository_only_the_checkpoint_is_fetched() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let all = names(&[
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
        ]);
        assert_eq!(
            wanted(&all),
            ["config.json", "model.safetensors", "tokenizer.json"]
        );
        let sharded = names(&[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ]);
        assert_eq!(wanted(&sharded).len(), 4);
    }
}
