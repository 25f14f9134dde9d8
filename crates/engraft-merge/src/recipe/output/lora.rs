//! A merge as PEFT's LoRA: dW ~ B A with alpha = rank.

use std::collections::BTreeMap;

use engraft_linalg::Matrix;
use serde_json::{Map, Value, json};

use super::writer::{Facts, File, Written, peft_config};
use crate::adapter::{Config, LoraFactors, MODEL};
use crate::base::Layout;
use crate::error::{Error, Result};
use crate::factorise::{Rank, factorise};
use crate::file::HostTensor;
use crate::recipe::ModuleOutcome;
use crate::spectral::compact;
use crate::update::Update;

/// The factors of a module: of a rank or an energy, or exact.
pub(super) fn module(
    update: &Update,
    layout: &Layout,
    kept: Option<Rank>,
    weight: Option<&[f32]>,
) -> Result<Written> {
    let (rows, columns) = update.known_shape()?;
    let (left, right, error, norm) = match kept {
        Some(rank) => {
            let found = factorise(update, rank, weight)?;
            (found.left, found.right, found.error, found.norm)
        }
        None if update.is_low_rank() => match &update.low_rank {
            Some(factors) => {
                let norm = factors.dot(factors)?.max(0.0).sqrt();
                let found = compact(factors)?;
                (found.left, found.right, 0.0, norm)
            }
            None => (Matrix::zeros(rows, 0), Matrix::zeros(0, columns), 0.0, 0.0),
        },
        None => {
            return Err(Error::input(
                "its update is not of low rank: a LoRA needs a `rank` or an `energy`; `form = \"delta\"` and `form = \"checkpoint\"` keep all of it",
            ));
        }
    };
    // PEFT has no rank of 0.
    let (left, right) = match left.cols() {
        0 => (Matrix::zeros(rows, 1), Matrix::zeros(1, columns)),
        _ => (left, right),
    };
    let rank = left.cols();
    let (a, b) = match layout {
        Layout::Convolution { kernel } => {
            let inputs = columns / kernel.iter().product::<usize>();
            let ones = vec![1; kernel.len()];
            (
                [vec![rank, inputs], kernel.clone()].concat(),
                [vec![rows, rank], ones].concat(),
            )
        }
        _ => (vec![rank, columns], vec![rows, rank]),
    };
    let [field_a, field_b] = LoraFactors::fields(layout);
    Ok(Written {
        tensors: vec![
            (field_a, HostTensor::new(a, right.to_f32())),
            (field_b, HostTensor::new(b, left.to_f32())),
        ],
        outcome: ModuleOutcome {
            shape: [rows, columns],
            norm: Some(norm),
            rank: Some(rank),
            error,
            factor_wise: None,
        },
    })
}

/// Writes what layers add to their biases, for all or for none; whether there was any.
pub(super) fn biases(
    file: &mut File,
    biases: &BTreeMap<String, Option<Vec<f64>>>,
    modules: &BTreeMap<String, ModuleOutcome>,
) -> Result<bool> {
    if biases.values().all(Option::is_none) {
        return Ok(false);
    }
    for (module, bias) in biases {
        let outputs = modules[module].shape[0];
        let numbers = match bias {
            Some(bias) => bias.iter().map(|x| *x as f32).collect(),
            None => vec![0.0; outputs],
        };
        file.push(
            &format!("{MODEL}{module}.lora_B.bias"),
            &HostTensor::new(vec![outputs], numbers),
        )?;
    }
    Ok(true)
}

/// The configuration: the most common rank, and patterns for the others.
pub(super) fn config(facts: &Facts<'_>, has_bias: bool) -> Config {
    let modules = facts.modules;
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let ranks = modules.values().filter_map(|module| module.rank);
    ranks.for_each(|rank| *counts.entry(rank).or_default() += 1);
    let usual = counts
        .iter()
        .max_by_key(|(_, count)| **count)
        .map_or(1, |(rank, _)| *rank);
    let others = modules.iter().filter_map(|(path, module)| {
        let rank = module.rank.filter(|rank| *rank != usual)?;
        Some((path.clone(), json!(rank)))
    });
    let pattern: Map<String, Value> = others.collect();
    peft_config(
        facts,
        json!({
            "peft_type": "LORA",
            "r": usual,
            "lora_alpha": usual,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "lora_dropout": 0.0,
            "bias": "none",
            "lora_bias": has_bias,
            "use_rslora": false,
            "use_dora": false,
            "init_lora_weights": true,
            "layers_to_transform": null,
            "layers_pattern": null,
        }),
    )
}
