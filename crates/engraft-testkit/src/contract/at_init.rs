//! Before training: the base model to rounding, to the declared bound, or really another one.

use burn::tensor::Tensor;
use engraft_core::{AtInit, Mode};
use engraft_tensor::bridge;

use super::case::{Case, adapted_layers};
use super::{Outcome, ensure};
use crate::{compare, random};

/// Below this width a method that changes the model may have nothing to change.
const WIDTH: usize = 12;

pub(super) fn check(case: &Case) -> Outcome {
    let (before, after) = (case.base_output(), case.eval(&case.fresh));
    let mut pairs = vec![("the model".to_owned(), flat(after), flat(before))];
    let ctx = case.fresh.ctx(Mode::Eval);
    for (path, layer) in adapted_layers(&case.fresh.model) {
        let [d_in, _] = layer.weight.dims();
        let x = random::normal([5, d_in], path, &layer.weight.val().device(), case.dtype);
        pairs.push((
            path.to_owned(),
            layer.forward(x.clone(), &ctx),
            layer.base().forward(x),
        ));
    }
    match case.method.at_init() {
        AtInit::Identity => pairs.iter().try_for_each(|(what, after, before)| Ok(compare::close(what, after, before, case.terms())?)),
        AtInit::Bounded(bound) => pairs.iter().skip(usize::from(pairs.len() > 1)).try_for_each(|(what, after, before)| {
            let distance = norm(&(after.clone() - before.clone())) / norm(before);
            let allowed = bound + compare::tolerance(case.dtype, case.terms(), 1.0);
            ensure(distance <= allowed, || format!("{what}: relative distance {distance:.3e} from the base, bound {allowed:.3e}"))
        }),
        AtInit::NotIdentity => {
            let wide = case.layer.max_rank() >= WIDTH;
            let differs = pairs.iter().any(|(what, after, before)| compare::close(what, after, before, case.terms()).is_err());
            ensure(!wide || differs, || "declared not to be the identity, but equals the base".to_owned())
        }
    }
}

fn flat(y: Tensor<3>) -> Tensor<2> {
    let [batch, tokens, width] = y.dims();
    y.reshape([batch * tokens, width])
}

fn norm(x: &Tensor<2>) -> f64 {
    bridge::values(x).iter().map(|x| x * x).sum::<f64>().sqrt()
}
