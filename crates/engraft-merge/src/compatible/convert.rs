//! `convert_to_lora`: any update as B A, and `subtract_mutated_init`: PiSSA, OLoRA and CorDA as an
//! adapter of the original base.

use engraft_linalg::{Svd, product_svd, svd};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Sink;
use crate::adapter::{Adapter, Config, LoraFactors, MODEL};
use crate::base::{Base, Layout};
use crate::error::{Error, Result};
use crate::file::HostTensor;
use crate::update::{Update, columns_beside, rows_below};

/// How many singular triples are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Kept {
    /// As many.
    Rank(usize),
    /// The fewest whose squares reach this fraction of all.
    Energy(f64),
}

/// A LoRA (B = U S, A = V^T, alpha = r) of an adapter of any type that has a host form: its
/// configuration, and its tensors into `sink`.
///
/// # Errors
/// A rank of 0 or above the smaller side of a weight, a fraction outside (0, 1], an update of
/// convolutions or of biases, an update that needs a base where none is given.
pub fn convert_to_lora(
    adapter: &Adapter,
    base: Option<&Base>,
    kept: Kept,
    sink: Sink<'_>,
) -> Result<Config> {
    match kept {
        Kept::Rank(0) => {
            return Err(Error::input(
                "a rank of 0 leaves nothing, expected at least 1",
            ));
        }
        Kept::Energy(fraction) if !(fraction > 0.0 && fraction <= 1.0) => {
            let reason = format!("a fraction of {fraction}, expected one above 0 and at most 1");
            return Err(Error::input(reason));
        }
        _ => {}
    }
    let rank = match kept {
        Kept::Rank(rank) => rank,
        Kept::Energy(_) => 1,
    };
    let mut ranks = Map::new();
    for (module, found) in adapter.modules() {
        let refused = |reason: String| Error::module(adapter.name(), module, reason);
        let [field_a, field_b] = match &found.layout {
            Layout::Convolution { .. } => {
                let reason =
                    "PEFT converts linear layers only; `cargo xtask merge` writes convolutions too";
                return Err(refused(reason.to_owned()));
            }
            layout => LoraFactors::fields(layout),
        };
        let update = adapter.update(module, base)?;
        if update.bias.is_some() || update.bias_scale.is_some() {
            let reason = "it changes a bias, which B A cannot: fold it into the checkpoint";
            return Err(refused(reason.to_owned()));
        }
        let all = decomposed(adapter, module, &update, base)?;
        let own = match kept {
            Kept::Rank(rank) => rank,
            Kept::Energy(fraction) => all.rank_for_energy(fraction)?.max(1),
        };
        let (rows, columns) = update.known_shape()?;
        if own > rows.min(columns) {
            let reason = format!(
                "a rank of {own}, but its weight of {rows}x{columns} has at most {}",
                rows.min(columns)
            );
            return Err(refused(reason));
        }
        // A product of thin factors has no further triples: the rest are zeros.
        let all = all.truncated(own.min(all.s.len()))?;
        let (missing, b) = (own - all.s.len(), all.u.scale_columns(&all.s)?);
        let zeros = engraft_linalg::Matrix::zeros;
        let a = rows_below(&[&all.vt, &zeros(missing, columns)])?;
        let b = columns_beside(&[&b, &zeros(rows, missing)])?;
        if own != rank {
            ranks.insert(module.clone(), json!(own));
        }
        sink(
            &format!("{MODEL}{module}.{field_a}"),
            HostTensor::from_matrix(&a),
        )?;
        sink(
            &format!("{MODEL}{module}.{field_b}"),
            HostTensor::from_matrix(&b),
        )?;
    }
    Ok(lora_config(adapter.config(), rank, ranks))
}

fn decomposed(
    adapter: &Adapter,
    module: &str,
    update: &Update,
    base: Option<&Base>,
) -> Result<Svd> {
    if let (true, Some(factors)) = (update.is_low_rank(), &update.low_rank) {
        return Ok(product_svd(&factors.left, &factors.right)?);
    }
    let layout = &adapter.modules()[module].layout;
    let weight = match (update.needs_base(), base) {
        (true, Some(base)) => Some(base.weight(module, layout)?.data),
        _ => None,
    };
    let dense = update.to_dense(weight.as_deref());
    let dense = dense.map_err(|error| Error::module(adapter.name(), module, error))?;
    Ok(svd(&dense.to_matrix()?)?)
}

/// The configuration of a LoRA for the modules of another adapter, whose alpha is its rank.
#[must_use]
pub fn lora_config(of: &Config, rank: usize, ranks: Map<String, Value>) -> Config {
    let kept = |key: &str| of.keys().get(key).cloned().unwrap_or(Value::Null);
    let Value::Object(keys) = json!({
        "peft_type": "LORA",
        "task_type": null,
        "auto_mapping": null,
        "base_model_name_or_path": kept("base_model_name_or_path"),
        "revision": null,
        "inference_mode": false,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": kept("target_modules"),
        "exclude_modules": [],
        "fan_in_fan_out": of.is_set("fan_in_fan_out"),
        "bias": "none",
        "use_rslora": false,
        "use_dora": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "layers_to_transform": kept("layers_to_transform"),
        "layers_pattern": kept("layers_pattern"),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }) else {
        unreachable!("an object")
    };
    Config::new(keys)
}

/// The LoRA on the original base of an adapter whose init left a residual of it:
/// W + dW = W - s B_0 A_0 + s B A, so dW = s [B, -B_0] [A; A_0] of twice the rank and alpha. `init` is
/// the adapter as it was before training.
///
/// # Errors
/// Adapters that are not LoRA or do not fit each other.
pub fn subtract_init(adapter: &Adapter, init: &Adapter, sink: Sink<'_>) -> Result<Config> {
    for module in adapter.modules().keys() {
        let (own, before) = (adapter.lora_factors(module)?, init.lora_factors(module)?);
        if (&own.a.shape, &own.b.shape) != (&before.a.shape, &before.b.shape) {
            let reason = format!(
                "its factors are {:?} and {:?}, those before training {:?} and {:?}",
                own.a.shape, own.b.shape, before.a.shape, before.b.shape
            );
            return Err(Error::module(adapter.name(), module, reason));
        }
        let a = rows_below(&[&own.a.matrix()?, &before.a.matrix()?])?;
        let b = columns_beside(&[&own.b.matrix()?, &before.b.matrix()?.scale(-1.0)])?;
        let [field_a, field_b] = LoraFactors::fields(&adapter.modules()[module].layout);
        sink(
            &format!("{MODEL}{module}.{field_a}"),
            HostTensor::from_matrix(&a),
        )?;
        sink(
            &format!("{MODEL}{module}.{field_b}"),
            HostTensor::from_matrix(&b),
        )?;
    }
    let config = adapter.config();
    let doubled = |key: &str, by: f64| -> Value {
        let number = |value: &Value| value.as_f64().map(|x| by * x);
        let whole = |x: f64| match x.fract() == 0.0 {
            true => json!(x as i64),
            false => json!(x),
        };
        match config.keys().get(key) {
            Some(Value::Object(pattern)) => pattern
                .iter()
                .filter_map(|(path, value)| Some((path.clone(), whole(number(value)?))))
                .collect::<Map<_, _>>()
                .into(),
            Some(value) => number(value).map_or(Value::Null, whole),
            None => Value::Null,
        }
    };
    // alpha / sqrt(r) stays with sqrt(2) alpha.
    let alpha = if config.is_set("use_rslora") {
        2f64.sqrt()
    } else {
        2.0
    };
    Ok(config.with([
        ("init_lora_weights", json!(true)),
        ("r", doubled("r", 2.0)),
        ("lora_alpha", doubled("lora_alpha", alpha)),
        ("rank_pattern", doubled("rank_pattern", 2.0)),
        ("alpha_pattern", doubled("alpha_pattern", alpha)),
    ]))
}
