//! Configurations are strict, and fit a shape or say why not.

use burn::tensor::DType;
use engraft_core::{Adaptable, Adapted, Error, Injection, LayerShape, MethodEntry, Mode, Plan};
use serde_json::Value;

use super::case::{Case, NAME, attach, harness};
use super::{Outcome, ensure};
use crate::{compare, random};

/// A configuration survives being written out, and an unknown key is an error that names it.
pub(super) fn check(case: &Case) -> Outcome {
    let config = case.method.config();
    let again = case.entry.parse(config)?;
    ensure(again.config() == config, || {
        format!("read back as {}", again.config())
    })?;
    let mut unknown = config.clone();
    unknown
        .as_object_mut()
        .ok_or("the configuration is not a table")?
        .insert("no-such-key".to_owned(), Value::Bool(true));
    match case.entry.parse(&unknown) {
        Err(Error::UnknownKey { found, .. }) if found == "no-such-key" => Ok(()),
        other => Err(format!("an unknown key gave {other:?}").into()),
    }
}

/// The default configuration on a shape: planned and attached, or refused by both with one error
/// that leaves the model as it was.
pub(super) fn default_is_admitted_or_refused(
    entry: &MethodEntry,
    layer: &LayerShape,
    dtype: DType,
) -> Outcome {
    let method = entry.parse(&Value::Null)?;
    let injection = Injection::new(1);
    let mut adapted = Adapted::new(harness(&method, layer, dtype));
    let plan = Plan::new(&method, &adapted.model.shapes(), &injection);
    let attached = attach(&mut adapted, NAME, &method, &injection);
    match (plan, attached) {
        (Ok(plan), Ok(())) => {
            ensure(plan.counts() == adapted.counts(NAME)?, || {
                "the plan counts otherwise than the adapted model".to_owned()
            })?;
            let device = adapted.model.head.weight.val().device();
            let x = random::normal([1, 2, layer.d_in], "x", &device, dtype);
            let y = adapted.model.forward(x, &adapted.ctx(Mode::Eval));
            ensure(compare::max_abs(&y).is_finite(), || {
                "the output is not finite".to_owned()
            })
        }
        (Err(planned), Err(attached)) => {
            ensure(matches!(planned, Error::Inadmissible { .. }), || {
                format!("refused with {planned:?}, expected Error::Inadmissible")
            })?;
            ensure(planned.to_string() == attached.to_string(), || {
                format!("planning says `{planned}`, attaching `{attached}`")
            })?;
            ensure(adapted.attachments().next().is_none(), || {
                "refused, but attached".to_owned()
            })
        }
        (Ok(_), Err(attached)) => Err(format!("planned, but not attached: {attached}").into()),
        (Err(planned), Ok(())) => Err(format!("attached, but not planned: {planned}").into()),
    }
}
