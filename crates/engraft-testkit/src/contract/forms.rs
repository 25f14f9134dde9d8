//! Activation form = weight form.

use engraft_core::{FrozenBase, Mode};

use super::case::{Case, NAME, adapted_layers};
use super::{Outcome, ensure};
use crate::{compare, random};

pub(super) fn check(case: &Case) -> Outcome {
    let meta = case.entry.meta;
    for mode in [Mode::Eval, Mode::Train { seed: 1, step: 2 }] {
        let ctx = case.moved.ctx(mode);
        for (path, layer) in adapted_layers(&case.moved.model) {
            let effective = match layer.effective(&ctx) {
                Ok(effective) => effective,
                // Dropout has no weight form, a method that is not mergeable may lack one.
                Err(_) if mode != Mode::Eval || !meta.mergeable => continue,
                Err(error) => return Err(error.into()),
            };
            let (base, [d_in, _]) = (layer.base(), layer.weight.dims());
            ensure(effective.weight().dims() == base.weight().dims(), || {
                format!(
                    "{path}: W' is {:?}, W is {:?}",
                    effective.weight().dims(),
                    base.weight().dims()
                )
            })?;
            let same_bias = match (&effective.bias, &base.bias) {
                (Some(found), Some(expected)) => compare::identical("b'", found, expected).is_ok(),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            if !same_bias && !meta.changes_bias {
                // An option that adds an offset shows it on a layer without bias too, where
                // third-party modules refuse it; what only changes a bias there is must be declared.
                let bare = FrozenBase::new(base.weight(), None);
                let added = layer
                    .adapters
                    .get(NAME)?
                    .effective(&bare, &ctx)?
                    .bias
                    .is_some();
                ensure(added, || {
                    format!("{path}: the bias changes, but `changes_bias` is not declared")
                })?;
            }
            let x = random::normal([6, d_in], path, &layer.weight.val().device(), case.dtype);
            compare::close(
                path,
                &layer.forward(x.clone(), &ctx),
                &effective.forward(x),
                case.terms(),
            )?;
        }
    }
    Ok(())
}
