//! Off, on, and two named adapters in one model: switched as a whole, and row by row.

use burn::tensor::Tensor;
use engraft_core::{Adapted, Composition, Mode, RowChoice};

use super::case::{Case, attach, same_parameters};
use super::{Outcome, ensure};
use crate::{Harness, compare, random};

pub(super) fn check(case: &Case) -> Outcome {
    let base = case.base_output();
    let mut model = case.moved.clone();
    let alone = case.eval(&model);
    model.disable(true);
    compare::identical("output while disabled", &case.eval(&model), &base)?;
    model.disable(false);
    compare::identical("output after enabling", &case.eval(&model), &alone)?;

    let (one, two) = ("one", "two");
    let mut model = Adapted::new(case.base());
    let mut outputs = Vec::new();
    for (name, seed) in [(one, 11), (two, 12)] {
        attach(&mut model, name, &case.method, &case.injection(seed))?;
        model = random::perturb_trained(model, 0.1, seed);
    }
    for name in [one, two, one, two] {
        model.activate(&[name], Composition::Sum)?;
        outputs.push(case.eval(&model));
    }
    compare::identical(
        "the first adapter after switching",
        &outputs[2],
        &outputs[0],
    )?;
    compare::identical(
        "the second adapter after switching",
        &outputs[3],
        &outputs[1],
    )?;
    rows(case, &model, [&outputs[0], &outputs[1]], &base)?;

    let trained = |model: &Adapted<Harness>, name: &str| {
        model
            .trainable()
            .iter()
            .filter(|found| found.path.contains(&format!(".{name}.")))
            .count()
    };
    let kept = trained(&model, two);
    model.remove(one)?;
    compare::identical(
        "the second adapter after the first was removed",
        &case.eval(&model),
        &outputs[1],
    )?;
    ensure(trained(&model, two) == kept, || {
        "removing one adapter froze the other".to_owned()
    })?;
    model.remove(two)?;
    compare::identical("output after all were removed", &case.eval(&model), &base)?;
    same_parameters("after all were removed", &model, &Adapted::new(case.base()))
}

/// Each row of a batch through its own adapter equals running it separately.
fn rows(
    case: &Case,
    model: &Adapted<Harness>,
    expected: [&Tensor<3>; 2],
    base: &Tensor<3>,
) -> Outcome {
    if model
        .attachments()
        .any(|attachment| !attachment.params.is_empty())
    {
        // Parameters of the model itself are the same for every row.
        return Ok(());
    }
    if case.entry.meta.lengthens {
        let refused = model.rows(&[Some("one"), Some("two"), None]).is_err();
        return ensure(refused, || {
            "sequences of different lengths in one batch were not refused".to_owned()
        });
    }
    let choice = RowChoice::new(vec![Some("one".to_owned()), Some("two".to_owned()), None]);
    let ctx = model.ctx(Mode::Eval).with_rows(&choice);
    let x = case.x(&model.model);
    let mixed = model.model.forward(x.clone(), &ctx).detach();
    for (row, (expected, name)) in expected.into_iter().zip(["one", "two"]).enumerate() {
        let expected = if case.entry.meta.whole_batch {
            let mut alone = model.clone();
            alone.activate(&[name], Composition::Sum)?;
            let x = x.clone().narrow(0, row, 1);
            alone.model.forward(x, &alone.ctx(Mode::Eval)).detach()
        } else {
            expected.clone().narrow(0, row, 1)
        };
        row_is(case, row, &mixed, &expected)?;
    }
    row_is(case, 2, &mixed, &base.clone().narrow(0, 2, 1))
}

fn row_is(case: &Case, row: usize, mixed: &Tensor<3>, expected: &Tensor<3>) -> Outcome {
    let found = mixed.clone().narrow(0, row, 1);
    let what = format!("row {row} of a mixed batch");
    compare::close(&what, &found, expected, case.terms())?;
    Ok(())
}
