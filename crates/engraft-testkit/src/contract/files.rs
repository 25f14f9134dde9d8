//! Saved and loaded again: bit-identical; a broken file changes nothing.

use std::path::Path;

use engraft_core::{Adapted, AnyMethod, Error, Result, file};
use serde_json::Value;

use super::case::{Case, NAME, attach, same_parameters};
use super::{Outcome, ensure};
use crate::{Harness, compare};

pub(super) fn check(case: &Case) -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("adapter.safetensors");
    case.moved.save_adapter(NAME, &path)?;
    let mut loaded = Adapted::new(case.base());
    load(case, &mut loaded, &path)?;
    compare::identical(
        "output after loading",
        &case.eval(&loaded),
        &case.eval(&case.moved),
    )?;
    same_parameters("after loading", &loaded, &case.moved)?;

    let bytes = std::fs::read(&path)?;
    let broken = directory.path().join("broken.safetensors");
    std::fs::write(&broken, &bytes[..bytes.len() - bytes.len() / 3])?;
    refused(case, &broken, "a truncated file")?;
    let (mut tensors, metadata) = file::read_tensors(&path)?;
    if tensors.pop_first().is_some() {
        file::write_tensors(&broken, &tensors, metadata)?;
        refused(case, &broken, "a file without one of its tensors")?;
    }
    Ok(())
}

fn load(case: &Case, adapted: &mut Adapted<Harness>, path: &Path) -> Result<()> {
    adapted.load_adapter(path, |id: &str, config: &Value| -> Result<AnyMethod> {
        if id == case.entry.meta.id {
            case.entry.parse(config)
        } else {
            Err(engraft_core::unknown_method(id, [case.entry.meta.id]))
        }
    })
}

/// A model with another adapter refuses the file and is as before.
fn refused(case: &Case, path: &Path, what: &str) -> Outcome {
    let mut model = Adapted::new(case.base());
    attach(&mut model, "other", &case.method, &case.injection(9))?;
    let before = model.clone();
    match load(case, &mut model, path) {
        Err(Error::File { .. }) => {}
        other => return Err(format!("{what} gave {other:?}, expected Error::File").into()),
    }
    ensure(model.attachments().eq(before.attachments()), || {
        format!("{what} left something attached")
    })?;
    same_parameters(what, &model, &before)?;
    let trained = |model: &Adapted<Harness>| {
        model
            .trainable()
            .into_iter()
            .map(|found| found.path)
            .collect::<Vec<_>>()
    };
    ensure(trained(&model) == trained(&before), || {
        format!("{what} changed what is trained")
    })?;
    Ok(compare::identical(
        what,
        &case.eval(&model),
        &case.eval(&before),
    )?)
}
