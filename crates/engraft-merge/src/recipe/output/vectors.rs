//! A merge as PEFT's IA3: l = 1 + the scaling of outputs (and biases), or of inputs.

use serde_json::json;

use super::writer::{Facts, Written, peft_config};
use crate::adapter::Config;
use crate::error::{Error, Result};
use crate::file::HostTensor;
use crate::recipe::ModuleOutcome;
use crate::update::Update;

/// Whether an update is a scaling as IA3 has it.
pub(super) fn holds(update: &Update) -> bool {
    let alone = update.low_rank.is_none() && update.sparse.is_none() && update.dense.is_none();
    let scaled = match (&update.rows, &update.columns) {
        (Some(rows), None) => update.bias_scale.as_ref() == Some(rows),
        (None, Some(_)) => update.bias_scale.is_none(),
        _ => false,
    };
    alone && scaled && update.bias.is_none()
}

/// Whether it scales inputs: such modules are feed-forward ones for PEFT.
pub(super) fn scales_inputs(update: &Update) -> bool {
    update.columns.is_some()
}

pub(super) fn module(update: &Update) -> Result<Written> {
    if !holds(update) {
        return Err(Error::input(
            "its update is no scaling of outputs or inputs, which is all that IA3 holds: `form = \"auto\"` finds one that does",
        ));
    }
    let (shape, scaling): (fn(usize) -> Vec<usize>, _) = match (&update.rows, &update.columns) {
        (Some(rows), _) => (|n| vec![n, 1], rows),
        (None, columns) => (|n| vec![1, n], columns.as_ref().expect("a scaling")),
    };
    let l = scaling.iter().map(|x| (1.0 + x) as f32).collect();
    Ok(Written {
        tensors: vec![("ia3_l", HostTensor::new(shape(scaling.len()), l))],
        outcome: ModuleOutcome {
            shape: update.shape.map(Option::unwrap_or_default),
            norm: None,
            rank: None,
            error: 0.0,
            factor_wise: None,
        },
    })
}

pub(super) fn config(facts: &Facts<'_>, inputs: &[String]) -> Config {
    peft_config(
        facts,
        json!({
            "peft_type": "IA3",
            "feedforward_modules": inputs,
            "init_ia3_weights": true,
        }),
    )
}
