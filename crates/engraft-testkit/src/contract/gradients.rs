//! Gradients: exactly where declared, and the derivative of the output or of the surrogate.

use burn::tensor::DType;
use engraft_core::{BaseWeights, Gradient, Mode};

use super::case::{Case, NAME};
use super::{Outcome, ensure};
use crate::{compare, gradcheck};

pub(super) fn check(case: &Case) -> Outcome {
    let meta = case.entry.meta;
    let attachment = case
        .moved
        .attachments()
        .next()
        .ok_or("nothing is attached")?;
    let selected: Vec<String> = attachment
        .params
        .iter()
        .map(|path| format!("model.{path}"))
        .collect();
    let inside = |path: &str| {
        path.contains(&format!(".adapters.{NAME}."))
            || path.starts_with(&format!("bank.trained.{NAME}/"))
    };
    let trainable = case.moved.trainable();
    for found in &trainable {
        ensure(
            inside(&found.path) || selected.contains(&found.path),
            || format!("{} is trained, but not part of the adapter", found.path),
        )?;
    }
    for path in &selected {
        ensure(trainable.iter().any(|found| found.path == *path), || {
            format!("{path} is selected, but frozen")
        })?;
    }
    let base = selected
        .iter()
        .filter(|path| !path.starts_with("model.head."))
        .count();
    ensure(base == 0 || meta.base == BaseWeights::Selected, || {
        "parameters of the base are trained, but declared frozen".to_owned()
    })?;
    if case.dtype != DType::F64 {
        return Ok(());
    }

    let mode = if case.is_random() {
        Mode::Train { seed: 3, step: 0 }
    } else {
        Mode::Eval
    };
    if meta.gradient == Gradient::Exact {
        // A surrogate that moves with the parameters would show in the differences; one that is
        // not declared shows here.
        let held = case.moved.surrogate();
        let moved = |adapted| crate::random::perturb_trained(adapted, 0.01, 5);
        let (held, own) = (moved(held), moved(case.moved.clone()));
        compare::close(
            "exact gradient, but the surrogate differs",
            &case.eval(&held),
            &case.eval(&own),
            case.terms(),
        )?;
    }
    Ok(gradcheck::check(
        &case.moved,
        &case.x(&case.moved.model),
        |adapted, x| adapted.model.forward(x, &adapted.ctx(mode)),
    )?)
}
