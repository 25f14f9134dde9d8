//! What differs between layers: PEFT's patterns over paths, read into each layer's configuration and
//! written from it.

use std::collections::BTreeMap;

use engraft_core::LayerShape;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Configured, Table, table};
use crate::config::{Patterns, Reader, number};
use crate::error::{Error, Result};
use crate::targets;

/// What PEFT writes for a rank or alpha pattern that is empty, if configurations of this type have one.
pub(crate) fn empty_pattern(name: &str, key: &str) -> Option<Value> {
    match name {
        "LORA" | "LOKR" | "LOHA" => Some(Table::new().into()),
        "DELORA" | "HIRA" if key == "rank_pattern" => Some(Table::new().into()),
        "OSF" if key == "rank_pattern" => Some(Value::Null),
        "ADALORA" if key == "rank_pattern" => Some(Value::Null),
        "ADALORA" => Some(Table::new().into()),
        _ => None,
    }
}

/// The rank of every layer: the default under PEFT's pattern.
pub(super) fn rank_overrides(
    config: &mut Reader,
    layers: &[LayerShape],
    rank: usize,
) -> Result<BTreeMap<String, Table>> {
    let pattern = config.rank_pattern();
    let mut overrides = BTreeMap::new();
    for layer in layers {
        let Some(found) = targets::first_match("rank_pattern", &pattern, &layer.path)? else {
            continue;
        };
        if found.fract() != 0.0 || found < 1.0 {
            return Err(Error::config(
                "rank_pattern",
                format!(
                    "{found} for {}: expected a whole number of at least 1",
                    layer.path
                ),
            ));
        }
        if found != rank as f64 {
            overrides.insert(
                layer.path.clone(),
                table([("rank", (found as usize).into())]),
            );
        }
    }
    Ok(overrides)
}

/// Adds the values of `key` that a pattern gives to layers, where they are not the default.
pub(super) fn override_by(
    overrides: &mut BTreeMap<String, Table>,
    (name, pattern): (&str, &Patterns),
    (key, default): (&str, f64),
    layers: &[LayerShape],
) -> Result<()> {
    for layer in layers {
        let found = targets::first_match(name, pattern, &layer.path)?;
        if let Some(found) = found.filter(|found| *found != default) {
            overrides
                .entry(layer.path.clone())
                .or_default()
                .insert(key.to_owned(), found.into());
        }
    }
    Ok(())
}

/// Rank and alpha of every layer: the defaults under PEFT's patterns.
pub(super) fn ranks(
    config: &mut Reader,
    layers: &[LayerShape],
    rank: usize,
    alpha: f64,
) -> Result<BTreeMap<String, Table>> {
    let mut overrides = rank_overrides(config, layers, rank)?;
    let pattern = ("alpha_pattern", &config.alpha_pattern());
    override_by(&mut overrides, pattern, ("alpha", alpha), layers)?;
    Ok(overrides)
}

/// The inverse of [`rank_overrides`] and [`override_by`]: the number of the first layer, and a
/// pattern where others differ.
pub(super) fn pattern(layers: &[Configured], key: &str) -> Result<(f64, Patterns), String> {
    let first: f64 = layers[0].value(key)?;
    let mut pattern = Patterns::default();
    for layer in layers {
        let own: f64 = layer.value(key)?;
        if own != first {
            pattern.0.push((targets::only(&layer.layer.path), own));
        }
    }
    Ok((first, pattern))
}

/// The inverse of [`ranks`]: rank and alpha of the first layer, and patterns where others differ.
pub(super) fn patterns(layers: &[Configured]) -> Result<(usize, f64, Patterns, Patterns), String> {
    let (rank, rank_pattern) = pattern(layers, "rank")?;
    let (alpha, alpha_pattern) = pattern(layers, "alpha")?;
    Ok((rank as usize, alpha, rank_pattern, alpha_pattern))
}

/// A whole number of at least 1 for every layer, from `own`: a table where it is not `default`.
pub(super) fn sizes(
    layers: &[LayerShape],
    (peft, key): (&str, &str),
    default: usize,
    own: impl Fn(&str) -> Result<Option<f64>>,
) -> Result<BTreeMap<String, Table>> {
    let mut overrides = BTreeMap::new();
    for layer in layers {
        let Some(found) = own(&layer.path)? else {
            continue;
        };
        if found.fract() != 0.0 || found < 1.0 {
            return Err(Error::config(
                peft,
                format!(
                    "{found} for {}: expected a whole number of at least 1",
                    layer.path
                ),
            ));
        }
        if found != default as f64 {
            overrides.insert(layer.path.clone(), table([(key, (found as usize).into())]));
        }
    }
    Ok(overrides)
}

/// The inverse of [`sizes`]: the value of the first layer, and a table of patterns for the layers
/// with others. `name` makes the pattern of a path, and `find` looks a path up as PEFT will.
pub(super) fn size_patterns(
    layers: &[Configured],
    key: &str,
    name: impl Fn(&str) -> String,
    find: impl Fn(&str, &Patterns, &str) -> Result<Option<f64>>,
) -> Result<(usize, Value), String> {
    let first: usize = layers[0].value(key)?;
    let mut patterns = Patterns::default();
    for layer in layers {
        let own: usize = layer.value(key)?;
        if own != first {
            patterns.0.push((name(&layer.layer.path), own as f64));
        }
    }
    // As a table is written.
    patterns.0.sort_by(|a, b| a.0.cmp(&b.0));
    for layer in layers {
        let own: usize = layer.value(key)?;
        let found = find(key, &patterns, &layer.layer.path).map_err(|error| error.to_string())?;
        if found.unwrap_or(first as f64) != own as f64 {
            return Err(format!(
                "`{key}` = {own} of {}: PEFT's patterns cannot tell it from a layer whose path ends alike",
                layer.layer.path
            ));
        }
    }
    let entries = patterns.0.into_iter();
    let table: Table = entries.map(|(key, value)| (key, number(value))).collect();
    Ok((first, table.into()))
}

/// The value that all layers share.
pub(super) fn common<T: DeserializeOwned + PartialEq>(
    layers: &[Configured],
    key: &str,
) -> Result<T, String> {
    let first: T = layers[0].value(key)?;
    for layer in layers {
        if layer.value::<T>(key)? != first {
            return Err(format!(
                "`{key}` differs between {} and {}, and PEFT has one for all layers",
                layers[0].layer.path, layer.layer.path
            ));
        }
    }
    Ok(first)
}
