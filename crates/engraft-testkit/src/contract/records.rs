//! The adapted model as a Burn module: records, validation and training state, devices.

use burn::module::Module;
use engraft_core::Adapted;

use super::case::{Case, same_parameters};
use super::{Outcome, ensure};
use crate::{Harness, compare};

pub(super) fn check(case: &Case) -> Outcome {
    let expected = case.eval(&case.moved);
    let loaded = case
        .again(case.dtype)?
        .load_record(case.moved.clone().into_record());
    same_parameters("after loading a record", &loaded, &case.moved)?;
    compare::identical(
        "output after loading a record",
        &case.eval(&loaded),
        &expected,
    )?;

    let valid = case.moved.valid();
    compare::identical(
        "output of valid()",
        &case.eval(&valid),
        &expected.clone().inner(),
    )?;
    let device = case.moved.model.head.weight.val().device();
    for (what, model) in [
        ("valid().train()", valid.train()),
        ("fork()", case.moved.clone().fork(&device)),
    ] {
        ensure(trained(&model) == trained(&case.moved), || {
            format!("{what} changes what is trained")
        })?;
        compare::identical(what, &case.eval(&model), &expected)?;
    }
    // Burn records the move for autodiff, so that what arrives computes, but is not trained.
    Ok(compare::identical(
        "to_device()",
        &case.eval(&case.moved.clone().to_device(&device)),
        &expected,
    )?)
}

fn trained(model: &Adapted<Harness>) -> Vec<String> {
    model
        .trainable()
        .into_iter()
        .map(|found| found.path)
        .collect()
}
