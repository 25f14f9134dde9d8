//! On a base of few bits: the same as on the numbers that these stand for.

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use engraft_core::{Adapted, Gradients, Mode, Weight};
use engraft_kernels::Quantisation;
use engraft_tensor::ops::QuantisedWeight;

use super::case::{Case, NAME, adapted_layers, attach};
use super::{Outcome, ensure};
use crate::{Harness, compare, random};

/// Blocks that end inside rows.
const BLOCK: usize = 20;

pub(super) fn check(case: &Case) -> Outcome {
    if case.dtype != DType::F64 || adapted_layers(&case.fresh.model).next().is_none() {
        return Ok(());
    }
    let attached = |harness: Harness| -> Result<_, engraft_core::Error> {
        let mut adapted = Adapted::new(harness);
        attach(&mut adapted, NAME, &case.method, &case.injection(1))?;
        Ok(random::perturb_trained(adapted, 0.1, 2))
    };
    let mut packed = match attached(quantised(case.base())?) {
        Ok(packed) => packed,
        // What trains weights, or starts from full ones, says so.
        Err(error) if error.to_string().contains("quantised") => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let plain = attached(decoded(quantised(case.base())?))?;

    let both = [&packed, &plain].map(|adapted| {
        let y = case.output(adapted, Mode::Eval);
        (y, gradients(case, adapted))
    });
    let [(y, found), (expected, wanted)] = both;
    compare::close("output", &y, &expected, case.terms())?;
    let paths: Vec<&str> = wanted.paths().collect();
    ensure(found.paths().eq(wanted.paths()), || {
        format!("other gradients than those of {paths:?}")
    })?;
    for path in paths {
        if let (Some(found), Some(wanted)) = (found.get(path), wanted.get(path)) {
            compare::close(path, found, wanted, case.terms())?;
        }
    }
    if case.entry.meta.mergeable {
        packed.merge()?;
        compare::close("merged output", &case.eval(&packed), &y, case.terms())?;
        packed.unmerge();
        compare::identical("output after unmerging", &case.eval(&packed), &y)?;
        let layers = [&packed.model.block.fc1, &packed.model.block.fc2];
        ensure(
            layers.iter().all(|fc| fc.weight.as_quantised().is_some()),
            || "after unmerging the weights are in full".to_owned(),
        )?;
    }
    Ok(())
}

/// The gradients of sum(y . g).
fn gradients(case: &Case, adapted: &Adapted<Harness>) -> Gradients {
    if adapted.trainable().is_empty() {
        return Gradients::default();
    }
    let x = case.x(&adapted.model);
    let y = adapted.model.forward(x, &adapted.ctx(Mode::Eval));
    let g = random::normal(y.dims(), "cotangent", &y.device(), y.dtype());
    Gradients::backward(&(y * g).sum(), adapted)
}

/// The model with both layers of the block quantised.
fn quantised(mut harness: Harness) -> Result<Harness, Box<dyn std::error::Error>> {
    for layer in [&mut harness.block.fc1, &mut harness.block.fc2] {
        let dense: Tensor<2> = layer.weight.val();
        let how = Quantisation {
            block: BLOCK,
            ..Quantisation::default()
        };
        let weight = QuantisedWeight::new(&dense, how)?;
        layer.weight = Weight::quantised(weight, &dense.device(), dense.dtype());
    }
    Ok(harness)
}

/// The model with the numbers that its quantised weights stand for.
fn decoded(mut harness: Harness) -> Harness {
    for layer in [&mut harness.block.fc1, &mut harness.block.fc2] {
        layer.weight = Param::from_tensor(layer.weight.val()).into();
    }
    harness
}
