//! A merge as PEFT's SHiRA: r (out + in) values at places of each weight. A module with fewer has zeros
//! at free places, so that PEFT finds as many as it expects.

use serde_json::json;

use super::writer::{Facts, Written, peft_config};
use crate::adapter::Config;
use crate::error::{Error, Result};
use crate::file::HostTensor;
use crate::recipe::ModuleOutcome;
use crate::update::{Sparse, Update};

/// Whether an update is sparse and nothing else.
pub(super) fn holds(update: &Update) -> bool {
    let bias = update.bias.is_some() || update.bias_scale.is_some();
    update.low_rank.is_none() && update.dense.is_none() && !update.needs_base() && !bias
}

/// The smallest r with places for every module's entries.
pub(super) fn rank(modules: &[(String, Update)]) -> Result<usize> {
    let mut rank = 1;
    for (_, update) in modules {
        let (rows, columns) = update.known_shape()?;
        let entries = update.sparse.as_ref().map_or(0, Sparse::len);
        rank = rank.max(entries.div_ceil(rows + columns));
    }
    Ok(rank)
}

/// Values, and their places: all rows, then all columns.
pub(super) fn module(update: &Update, rank: usize) -> Result<(Written, Vec<i32>)> {
    let (rows, columns) = update.known_shape()?;
    let wanted = rank * (rows + columns);
    if !holds(update) || wanted > rows * columns {
        return Err(Error::input(format!(
            "its update does not fit {wanted} places of a weight of {rows}x{columns}, as SHiRA of r = {rank} has them: `form = \"delta\"` holds it"
        )));
    }
    let none = Sparse::default();
    let sparse = update.sparse.as_ref().unwrap_or(&none);
    let mut taken = sparse.places().iter().copied().peekable();
    let free = (0..(rows * columns) as u64).filter(|place| taken.next_if_eq(place).is_none());
    let free = free.take(wanted - sparse.len()).map(|place| (place, 0.0));
    let mut entries: Vec<(u64, f32)> = sparse.entries().chain(free).collect();
    entries.sort_unstable_by_key(|(place, _)| *place);
    let columns = columns as u64;
    let places = entries.iter().map(|(place, _)| (place / columns) as i32);
    let places = places.chain(entries.iter().map(|(place, _)| (place % columns) as i32));
    let values: Vec<f32> = entries.iter().map(|(_, value)| *value).collect();
    let norm = values.iter().map(|x| f64::from(*x)).fold(0.0, f64::hypot);
    let written = Written {
        tensors: vec![(
            "shira_weight",
            HostTensor::new(vec![values.len()], values.clone()),
        )],
        outcome: ModuleOutcome {
            shape: [rows, columns as usize],
            norm: Some(norm),
            rank: None,
            error: 0.0,
            factor_wise: None,
        },
    };
    Ok((written, places.collect()))
}

pub(super) fn config(facts: &Facts<'_>, rank: usize) -> Config {
    peft_config(
        facts,
        json!({
            "peft_type": "SHIRA",
            "r": rank,
            "mask_type": "random",
            "random_seed": null,
            "init_weights": true,
        }),
    )
}
