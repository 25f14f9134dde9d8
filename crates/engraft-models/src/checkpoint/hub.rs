//! Checkpoints of the Hugging Face hub.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use engraft_core::{Error, Result};
use hf_hub::{Cache, Repo, RepoType};

use super::files::Files;

/// The directory of a checkpoint: `name` itself if it is one, else the model of that id on the hub
/// (`owner/name`, or `owner/name@revision`), from the usual cache (`HF_HOME`, else
/// `~/.cache/huggingface`). What the cache has is used without a network; what it lacks is fetched into
/// it by a build with the feature `hub`.
///
/// # Errors
/// A name that is neither, a model that is not in the cache and cannot be fetched.
pub fn locate(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    if !is_id(id) || !is_revision(revision) {
        return Err(Error::Unsupported(format!(
            "found `{name}`, expected a directory with config.json, or a model of the hub as \
             owner/name or owner/name@revision"
        )));
    }
    let cached = Cached::new(&Cache::from_env(), id, revision);
    match cached.snapshot().filter(|snapshot| is_complete(snapshot)) {
        Some(snapshot) => Ok(snapshot),
        // What there is of it has to do if nothing comes: loading says what it lacks.
        None => fetch(&cached).or_else(|error| cached.snapshot().ok_or(error)),
    }
}

/// What the cache has of a model.
struct Cached {
    cache: Cache,
    id: String,
    revision: String,
}

impl Cached {
    fn new(cache: &Cache, id: &str, revision: &str) -> Self {
        Self {
            cache: cache.clone(),
            id: id.to_owned(),
            revision: revision.to_owned(),
        }
    }

    fn repository(&self) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone())
    }

    /// The files of the revision: a branch or tag that the cache knows, or a commit.
    fn snapshot(&self) -> Option<PathBuf> {
        let repository = self.cache.repo(self.repository());
        let file = repository.get("config.json").or_else(|| {
            let commit = repository.pointer_path(&self.revision).join("config.json");
            commit.exists().then_some(commit)
        })?;
        file.parent().map(Path::to_owned)
    }

    fn failed(&self, reason: impl Display) -> Error {
        let Self {
            cache,
            id,
            revision,
        } = self;
        Error::Unsupported(format!(
            "found no directory `{id}`, and revision {revision} of a model of that name on the hub is \
             not in the cache {}; {reason}",
            cache.path().display()
        ))
    }
}

/// Whether a snapshot has all that a model needs: a configuration, all weights, and what turns data
/// into inputs.
fn is_complete(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).exists();
    let reads = has("tokenizer.json") || has("preprocessor_config.json");
    reads && Files::open(snapshot).is_ok()
}

/// Whether `id` is one or two names of letters, digits, `-`, `_` and `.`.
fn is_id(id: &str) -> bool {
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !name.is_empty() && name.chars().all(allowed) && name.chars().any(|c| c != '.')
    };
    id.split('/').count() <= 2 && id.split('/').all(is_name)
}

/// Whether `revision` is the name of a branch, a tag or a commit, and no way out of the cache.
fn is_revision(revision: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    revision.chars().all(allowed)
        && revision
            .split('/')
            .all(|part| !part.is_empty() && part != "..")
}

#[cfg(not(feature = "hub"))]
fn fetch(cached: &Cached) -> Result<PathBuf> {
    Err(cached.failed(
        "to have it fetched, build with the feature `hub` (`cargo xtask` does with --hub), or run `hf \
         download` of Python's huggingface_hub",
    ))
}

#[cfg(feature = "hub")]
fn fetch(cached: &Cached) -> Result<PathBuf> {
    use hf_hub::api::sync::ApiBuilder;

    let unreachable = |error: &dyn Display| {
        cached.failed(format!(
            "fetching it failed ({error}): check the name and the network, or name a directory with \
             its files"
        ))
    };
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !["", "0"].contains(&value.as_str())) {
        return Err(cached.failed("HF_HUB_OFFLINE keeps it from being fetched"));
    }
    let api = ApiBuilder::from_env()
        .build()
        .map_err(|error| unreachable(&error))?;
    let remote = api.repo(cached.repository());
    let info = remote.info().map_err(|error| unreachable(&error))?;
    let names: Vec<String> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(cached.failed("the hub has no weights of it as safetensors"));
    }
    for name in wanted(&names) {
        remote.get(name).map_err(|error| unreachable(&error))?;
    }
    cached
        .snapshot()
        .ok_or_else(|| cached.failed("the hub has no config.json of it"))
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
            "owner/name@../..",
            "...",
            "/nowhere/at/all",
        ] {
            assert!(locate(name).unwrap_err().to_string().contains("owner/name"));
        }
    }

    #[test]
    fn what_the_cache_has_is_used_and_what_it_lacks_is_said() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(home.path().join("hub"));
        let cached = |revision| Cached::new(&cache, "owner/name", revision);
        let message = cached("main").failed("so").to_string();
        assert!(
            message.contains("owner/name") && message.ends_with("; so"),
            "{message}"
        );
        let root = cache.path().join("models--owner--name");
        let snapshot = root.join("snapshots/abc123");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(root.join("refs")).unwrap();
        std::fs::write(root.join("refs/main"), "abc123").unwrap();
        assert_eq!(cached("main").snapshot(), None);
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        for revision in ["main", "abc123"] {
            assert_eq!(cached(revision).snapshot().unwrap(), snapshot);
        }
        assert_eq!(cached("other").snapshot(), None);
        assert!(!is_complete(&snapshot));
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
