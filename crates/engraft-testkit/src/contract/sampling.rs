//! Dropout and sampling: fixed by (seed, step) in training, absent in evaluation.

use burn::tensor::Tensor;
use engraft_core::Mode;

use super::case::Case;
use super::{Outcome, ensure};
use crate::compare;

/// On a layer this wide, two steps that draw the same by chance do not happen.
const WIDTH: usize = 24;

pub(super) fn check(case: &Case) -> Outcome {
    let eval = case.eval(&case.moved);
    let train = |seed, step| case.output(&case.moved, Mode::Train { seed, step });
    let first = train(7, 0);
    compare::identical("the same seed and step", &train(7, 0), &first)?;
    compare::identical(
        "evaluation after training passes",
        &case.eval(&case.moved),
        &eval,
    )?;
    if case.layer.max_rank() >= WIDTH && case.is_random() {
        let other = |found: &Tensor<3>| compare::identical("", found, &first).is_err();
        ensure((1..5).any(|step| other(&train(7, step))), || {
            "every step draws the same".to_owned()
        })?;
        ensure((8..12).any(|seed| other(&train(seed, 0))), || {
            "every seed draws the same".to_owned()
        })?;
    }
    Ok(())
}
