//! Adapters in directories: PEFT's files where PEFT knows the method, Engraft's otherwise.

use std::path::Path;

use engraft_core::{Adaptable, Adapted, Header};
use engraft_models::{Pretrained, Task};
use engraft_peft::PeftAdapter;
use serde_json::Value;
use tempfile::TempDir;

use super::ADAPTER;
use super::card::Card;
use super::subject::{input, named};
use crate::{Error, Result};

/// Engraft's own file.
pub(crate) const OWN_FILE: &str = "adapter.safetensors";

/// How an adapter was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// PEFT's two files.
    Peft,
    /// Engraft's file, because PEFT's cannot hold it: the reason.
    Own(String),
}

/// Refuses a path at which nothing can be made, without making anything.
pub fn check_writable(path: &Path) -> Result<()> {
    let mut above = path.ancestors().skip(1);
    let parent = above.find(|parent| parent.as_os_str().is_empty() || parent.exists());
    let parent = match parent {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let tried = tempfile::Builder::new()
        .prefix(".engraft-")
        .tempdir_in(parent);
    tried
        .map(drop)
        .map_err(|error| Error::io("write", path, &error))
}

/// Refuses a directory that holds something, or that cannot be made.
pub(crate) fn check_free(path: &Path) -> Result<()> {
    if !path.exists() {
        return check_writable(path);
    }
    let mut entries = std::fs::read_dir(path).map_err(|error| Error::io("write", path, &error))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::Input(format!(
            "{} is not empty: name another directory",
            path.display()
        ))),
    }
}

/// Writes the adapter and its card into a directory that appears when it is complete.
pub(super) fn write(adapted: &Adapted<Pretrained>, card: &Card, out: &Path) -> Result<Written> {
    check_free(out)?;
    let folder = beside(out)?;
    let path = folder.path();
    let in_out = adapted.model.config_json()["model_type"] == "gpt2";
    let exported = engraft_peft::export(adapted, ADAPTER, in_out);
    let written = match exported.and_then(|peft| {
        let (model, revision) = named(&card.model);
        let peft = peft.for_model(model, revision);
        let peft = match task_type(card) {
            Some(task) => peft.for_task(task),
            None => peft,
        };
        peft.write(path)
    }) {
        Ok(()) => Written::Peft,
        Err(error) => {
            adapted
                .save_adapter(ADAPTER, &path.join(OWN_FILE))
                .map_err(input)?;
            Written::Own(error.to_string())
        }
    };
    card.write(path)?;
    place(folder, out)?;
    Ok(written)
}

/// A temporary directory beside `out`.
pub(crate) fn beside(out: &Path) -> Result<TempDir> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |error| Error::io("write", parent, &error);
    std::fs::create_dir_all(parent).map_err(failed)?;
    tempfile::Builder::new()
        .prefix(".engraft-")
        .tempdir_in(parent)
        .map_err(failed)
}

/// Gives a complete directory its name.
pub(crate) fn place(folder: TempDir, out: &Path) -> Result<()> {
    // A directory that is there is empty: it makes room.
    if out.exists() {
        std::fs::remove_dir(out).map_err(|error| Error::io("write", out, &error))?;
    }
    // Temporary directories are closed to other users; this one stays.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)
            .map_err(|error| Error::io("write", out, &error))?;
    }
    std::fs::rename(folder.path(), out).map_err(|error| Error::io("write", out, &error))?;
    // Its name is free now: there is nothing to remove.
    let _ = folder.keep();
    Ok(())
}

/// What PEFT calls the task.
pub(super) fn task_type(card: &Card) -> Option<&'static str> {
    use engraft_data::task::Output;
    match card.output {
        Output::Class | Output::Classes | Output::Number if card.task.is_some() => Some("SEQ_CLS"),
        Output::TokenClass => Some("TOKEN_CLS"),
        Output::NextToken => Some("CAUSAL_LM"),
        _ => None,
    }
}

/// Attaches the adapter of a directory; what a user should know of it.
pub(super) fn load(adapted: &mut Adapted<Pretrained>, directory: &Path) -> Result<Vec<String>> {
    let own = directory.join(OWN_FILE);
    if own.exists() {
        adapted.load_adapter(&own, engraft::method).map_err(input)?;
        return Ok(Vec::new());
    }
    let peft = PeftAdapter::read(directory).map_err(input)?;
    if adapted.attachments().next().is_none() {
        let model = peft.prepare(adapted.model.clone()).map_err(input)?;
        *adapted = Adapted::new(model);
    }
    let import = peft
        .import(&adapted.model.shapes(), ADAPTER)
        .map_err(input)?;
    import.attach(adapted, engraft::method).map_err(input)?;
    Ok(import.warnings)
}

/// What PEFT's configuration in a directory calls the task.
pub(super) fn peft_task(directory: &Path) -> Result<Option<String>> {
    let config = directory.join(engraft_peft::CONFIG_FILE);
    let text =
        std::fs::read_to_string(&config).map_err(|error| Error::io("read", &config, &error))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Input(format!("{}: malformed: {error}", config.display())))?;
    Ok(json["task_type"].as_str().map(str::to_owned))
}

/// The head that an adapter without a card brings along, from the shapes of its tensors.
pub(super) fn head(directory: &Path) -> Result<Option<Task>> {
    let file = directory.join(engraft_peft::TENSOR_FILE);
    if !file.exists() {
        return Ok(None);
    }
    let header = Header::read(&file).map_err(input)?;
    const HEADS: [&str; 3] = [
        "classifier.weight",
        "classifier.out_proj.weight",
        "score.weight",
    ];
    let is_head = |key: &str| {
        let ends = |head: &&str| {
            key.strip_suffix(head)
                .is_some_and(|front| front.is_empty() || front.ends_with('.'))
        };
        HEADS.iter().any(ends)
    };
    let classes = header
        .tensors
        .iter()
        .find_map(|(key, info)| info.shape.first().copied().filter(|_| is_head(key)));
    let Some(classes) = classes else {
        return Ok(None);
    };
    Ok(Some(match peft_task(directory)?.as_deref() {
        Some("TOKEN_CLS") => Task::Tokens(classes),
        _ => Task::Classification(classes),
    }))
}
