//! A merge as deltas: every dW and db as it is.

use serde_json::{Map, Value, json};

use super::writer::{Facts, Written};
use crate::adapter::Config;
use crate::base::Layout;
use crate::error::Result;
use crate::file::HostTensor;
use crate::recipe::{Merger, ModuleOutcome, Recipe};
use crate::update::Update;

/// Behind the name of a parameter that is whole.
pub(super) const SAVED: &str = ":saved";

pub(super) fn module(merger: &Merger, module: &str, update: &Update) -> Result<Written> {
    let weight = merger.weight(module, update)?;
    let dense = update.to_dense(weight.as_deref())?;
    let norm = dense.norm();
    let shape = match &merger.modules[module] {
        Layout::Convolution { kernel } => {
            let inputs = dense.columns / kernel.iter().product::<usize>();
            [vec![dense.rows, inputs], kernel.clone()].concat()
        }
        _ => vec![dense.rows, dense.columns],
    };
    let mut tensors = vec![("weight", HostTensor::new(shape, dense.data))];
    if let Some(bias) = update.bias_change(merger.bias(module)?.as_deref()) {
        let numbers: Vec<f32> = bias.iter().map(|x| *x as f32).collect();
        tensors.push(("bias", HostTensor::new(vec![numbers.len()], numbers)));
    }
    Ok(Written {
        tensors,
        outcome: ModuleOutcome {
            shape: [dense.rows, dense.columns],
            norm: Some(norm),
            rank: None,
            error: 0.0,
            factor_wise: None,
        },
    })
}

pub(super) fn config(facts: &Facts<'_>, recipe: &Recipe) -> Config {
    let of = facts.of;
    let base = match of.keys().get("base") {
        Some(base) => base.clone(),
        None => json!({"name": of.text("base_model_name_or_path")}),
    };
    let modules = facts.modules.keys().map(|module| {
        let layout = match facts.layouts[module] {
            Layout::Transposed => "transposed",
            Layout::Embedding => "embedding",
            Layout::Linear | Layout::Convolution { .. } => "linear",
        };
        (module.clone(), json!({"layout": layout}))
    });
    let Value::Object(keys) = json!({
        "format": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "adapter": "merged",
        "method": recipe.method.as_deref().unwrap_or("merge"),
        "config": recipe.options,
        "base": base,
        "modules": modules.collect::<Map<_, _>>(),
        "saved": facts.saved,
    }) else {
        unreachable!("an object")
    };
    Config::new(keys)
}
