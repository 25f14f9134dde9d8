//! Merged = active; unmerging restores bit by bit, and training goes on as if nothing had been.

use super::case::{Case, adapted_layers, same_parameters};
use super::{Outcome, ensure};
use crate::compare;

pub(super) fn check(case: &Case) -> Outcome {
    let active = case.eval(&case.moved);
    let mut model = case.moved.clone();
    match (model.merge(), case.entry.meta.mergeable) {
        (Ok(()), true) => {
            let places: Vec<_> = adapted_layers(&model.model)
                .filter(|(_, layer)| !layer.is_merged())
                .map(|(path, _)| path)
                .collect();
            ensure(places.is_empty(), || format!("not merged: {places:?}"))?;
            compare::close("merged output", &case.eval(&model), &active, case.terms())?;
            // A selection has nothing to fold, once or twice.
            if adapted_layers(&model.model).next().is_some() {
                ensure(model.merge().is_err(), || {
                    "merged twice without an error".to_owned()
                })?;
                compare::close(
                    "output after a second merge",
                    &case.eval(&model),
                    &active,
                    case.terms(),
                )?;
            }
            model.unmerge();
        }
        (Ok(()), false) => return Err("declared not mergeable, but merged".into()),
        (Err(error), true) => return Err(format!("declared mergeable: {error}").into()),
        (Err(error), false) => {
            let message = error.to_string();
            let attachment = model.attachments().next().ok_or("nothing is attached")?;
            let named = attachment
                .layers
                .iter()
                .chain(&attachment.sites)
                .any(|path| message.contains(path.as_str()));
            ensure(named, || {
                format!("the refusal names no layer or site: {message}")
            })?;
        }
    }
    same_parameters("after unmerging", &model, &case.moved)?;
    compare::identical("output after unmerging", &case.eval(&model), &active)?;
    let (model, twin) = (case.train(model, 3), case.train(case.moved.clone(), 3));
    same_parameters("trained on beside a twin that never merged", &model, &twin)?;
    Ok(compare::identical(
        "output beside a twin that never merged",
        &case.eval(&model),
        &case.eval(&twin),
    )?)
}
