//! Any weight method as plain LoRA, which every tool reads.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::{
    Adaptable, Adapted, AnyMethod, Ctx, FrozenBase, Injection, Mode, Overrides, Slot, Targets,
};
use engraft_linalg::{Matrix, Svd, svd};
use engraft_tensor::bridge;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::targets;

/// How much of each update is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// This rank on every layer, or the layer's largest if that is less.
    Rank(usize),
    /// The smallest rank that keeps this fraction of the update's squared Frobenius norm.
    Energy(f64),
}

/// What a conversion did to one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Converted {
    /// Rank of the LoRA.
    pub rank: usize,
    /// |dW - A B| / |dW| in the Frobenius norm; zero for an update that is zero.
    pub error: f64,
}

/// An update in LoRA's terms.
struct Factors {
    a: Matrix,
    b: Matrix,
    /// The change of the bias.
    c: Option<Vec<f64>>,
    converted: Converted,
}

/// Attaches the best approximation of the adapter `from` by plain LoRA as the adapter `into`, which becomes
/// the active one, and says by layer how good it is:
///
/// dW = U S V^T, A = U_r S_r^(1/2), B = S_r^(1/2) V_r^T, alpha = r.
///
/// The update is that of the weight form in evaluation, relative to the model's own weights, so
/// that methods which bring a residual base along convert as well. A change of the bias becomes
/// the LoRA's own (`lora_bias` in PEFT) and is exact. Parameters of the model that `from` trains
/// along (heads) are copied. `method` makes a method from its id and configuration: the
/// registry's function.
///
/// # Errors
/// No adapter `from`, one without layers or without a weight form, a budget out of range, a name
/// `into` that is taken. On error nothing was attached.
pub fn to_lora<M: Adaptable>(
    adapted: &mut Adapted<M>,
    from: &str,
    into: &str,
    budget: Budget,
    method: impl Fn(&str, &Value) -> engraft_core::Result<AnyMethod>,
) -> Result<BTreeMap<String, Converted>> {
    check(budget)?;
    let tensors = adapted.adapter_tensors(from)?;
    let attachment = adapted
        .attachments()
        .find(|attachment| attachment.name == from)
        .expect("its tensors were found")
        .clone();
    if attachment.layers.is_empty() || !attachment.sites.is_empty() {
        return Err(Error::Unsupported(format!(
            "adapter `{from}` ({}) is not an update of weights and does not convert to LoRA",
            attachment.method
        )));
    }
    let factors = factorised(adapted, from, &attachment.layers, budget)?;
    let biased = factors.values().any(|factors| factors.c.is_some());
    let ranks = || factors.values().map(|factors| factors.converted.rank);
    let rank = ranks().max().unwrap_or(1);

    let chosen: Vec<&str> = factors.keys().map(String::as_str).collect();
    let shapes = adapted.model.shapes();
    let all: Vec<&str> = shapes.layers.iter().map(|own| own.path.as_str()).collect();
    let overrides = factors
        .iter()
        .filter(|(_, factors)| factors.converted.rank != rank)
        .map(|(path, factors)| {
            let own = json!({ "rank": factors.converted.rank, "alpha": factors.converted.rank });
            let own: Overrides = own.as_object().cloned().unwrap_or_default();
            (targets::only(path), own)
        });
    let injection = Injection {
        targets: Targets {
            include: targets::exactly(&chosen, &all),
            config_pattern: overrides.collect(),
            ..Targets::default()
        },
        train_also: attachment.params.clone(),
        ..Injection::default()
    };
    let lora = method(
        "lora",
        &json!({ "rank": rank, "alpha": rank, "bias": biased }),
    )?;
    let values = values(&factors, biased, &tensors, &attachment.params, into);
    adapted.restore(into, &lora, &injection, &values)?;
    Ok(factors
        .into_iter()
        .map(|(path, factors)| (path, factors.converted))
        .collect())
}

fn check(budget: Budget) -> Result<()> {
    let (what, found, expected) = match budget {
        Budget::Rank(0) => ("rank", "0".to_owned(), "at least 1"),
        Budget::Energy(energy) if !(energy > 0.0 && energy <= 1.0) => {
            ("energy", energy.to_string(), "above 0 and at most 1")
        }
        _ => return Ok(()),
    };
    Err(Error::Unsupported(format!(
        "conversion to LoRA: found {what} {found}, expected {expected}"
    )))
}

/// The updates of the layers, factorised, by path.
fn factorised<M: Adaptable>(
    adapted: &mut Adapted<M>,
    name: &str,
    layers: &[String],
    budget: Budget,
) -> Result<BTreeMap<String, Factors>> {
    let bank = adapted.bank.clone();
    let ctx = Ctx::new(&bank, Mode::Eval);
    let mut factors = BTreeMap::new();
    let mut outcome = Ok(());
    adapted.each_slot(|path, slot| {
        let Slot::Linear(linear) = slot else { return };
        if outcome.is_err() || !layers.iter().any(|layer| layer == path) {
            return;
        }
        outcome = linear
            .effective_of(name, &ctx)
            .map_err(Error::from)
            .and_then(|after| factorise(path, &linear.base(), &after, budget))
            .map(|own| drop(factors.insert(path.to_owned(), own)));
    });
    outcome.map(|()| factors)
}

fn factorise(path: &str, base: &FrozenBase, after: &FrozenBase, budget: Budget) -> Result<Factors> {
    let numeric = |error: engraft_linalg::LinalgError| {
        Error::Unsupported(format!("{path}: conversion to LoRA: {error}"))
    };
    let update = bridge::to_matrix(&(after.weight() - base.weight()));
    let svd = svd(&update).map_err(numeric)?;
    let most = svd.s.len();
    let energy = |rank: usize| -> f64 { svd.s[..rank].iter().map(|s| s * s).sum() };
    let total = energy(most);
    let rank = match budget {
        Budget::Rank(rank) => rank.min(most),
        Budget::Energy(_) if total == 0.0 => 1,
        Budget::Energy(share) => svd.rank_for_energy(share).map_err(numeric)?.max(1),
    };
    let error = match total {
        0.0 => 0.0,
        // The tail by itself: 1 - energy loses it in rounding.
        total => (svd.s[rank..].iter().map(|s| s * s).sum::<f64>() / total).sqrt(),
    };
    let Svd { u, s, vt } = svd.truncated(rank).map_err(numeric)?;
    let change = match (&after.bias, &base.bias) {
        (Some(after), Some(base)) => Some(bridge::values(&(after.clone() - base.clone()))),
        (Some(after), None) => Some(bridge::values(after)),
        _ => None,
    };
    Ok(Factors {
        a: Matrix::from_fn(u.rows(), rank, |row, column| {
            u.get(row, column) * s[column].sqrt()
        }),
        b: Matrix::from_fn(rank, vt.cols(), |row, column| {
            s[row].sqrt() * vt.get(row, column)
        }),
        c: change.filter(|change| change.iter().any(|value| *value != 0.0)),
        converted: Converted { rank, error },
    })
}

/// The LoRA's tensors, keyed as in an adapter file.
fn values(
    factors: &BTreeMap<String, Factors>,
    biased: bool,
    tensors: &BTreeMap<String, TensorData>,
    params: &[String],
    into: &str,
) -> BTreeMap<String, TensorData> {
    let mut values: BTreeMap<String, TensorData> = params
        .iter()
        .filter_map(|path| {
            let key = format!("model.{path}");
            Some((key.clone(), tensors.get(&key)?.clone()))
        })
        .collect();
    for (path, own) in factors {
        let key = |field: &str| format!("model.{path}.adapters.{into}.{field}");
        for (field, matrix) in [("a", &own.a), ("b", &own.b)] {
            let shape = [matrix.rows(), matrix.cols()];
            values.insert(
                key(field),
                TensorData::new(matrix.as_slice().to_vec(), shape),
            );
        }
        if biased {
            let width = own.b.cols();
            let c = own.c.clone().unwrap_or_else(|| vec![0.0; width]);
            values.insert(key("c"), TensorData::new(c, [width]));
        }
    }
    values
}
