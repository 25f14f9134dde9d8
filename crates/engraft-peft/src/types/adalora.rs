//! ADALORA: AdaLoRA, with the ranks that its allocator left.

use std::collections::BTreeMap;

use engraft_core::{LayerKind, LayerShape};
use serde_json::Value;

use super::{Configured, PeftType, Settings, Table, Written, common, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::Field;

/// Options of LoRA that its configuration has too. PEFT refuses some of them and ignores others.
const OTHERS: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "velora_config",
];

/// y = x W + b + s (x A . e) B, s = alpha / (r + 1e-5) with the rank r at first, whatever was kept.
pub(super) struct Adalora;

impl PeftType for Adalora {
    fn name(&self) -> &'static str {
        "ADALORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["adalora"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Conv2d { .. })
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("init_r", 12)?;
        let alpha: f64 = config.get("lora_alpha", 8.0)?;
        let steps: u64 = config.find("total_step")?.unwrap_or(0);
        let schedule = table([
            ("warmup", config.get::<u64>("tinit", 0)?.into()),
            ("settle", config.get::<u64>("tfinal", 0)?.into()),
            ("interval", config.get::<u64>("deltaT", 1)?.into()),
            ("steps", steps.into()),
        ]);
        if steps == 0 {
            let reason = "0 or none, which PEFT refuses too: expected the steps of the run";
            return Err(Error::config("total_step", reason));
        }
        let masks: BTreeMap<String, Vec<bool>> = config.get("rank_pattern", BTreeMap::new())?;
        config.refuse(&OTHERS)?;
        // Left over from LoRA; PEFT's AdaLoRA does not look at them.
        config.alpha_pattern();
        config.skip(&[
            "ensure_weight_tying",
            "init_lora_weights",
            "lora_bias",
            "megatron_core",
            "qalora_group_size",
            "r",
            "runtime_config",
            "use_qalora",
            "use_rslora",
        ]);
        let own = table([
            ("rank", rank.into()),
            ("target-rank", config.get::<usize>("target_r", 8)?.into()),
            ("alpha", positive(alpha, rank).into()),
            ("dropout", config.get("lora_dropout", 0.0)?.into()),
            ("orthogonality", config.get("orth_reg_weight", 0.5)?.into()),
            ("beta1", config.get("beta1", 0.85)?.into()),
            ("beta2", config.get("beta2", 0.85)?.into()),
            ("schedule", schedule.into()),
        ]);
        Ok(Settings {
            method: "adalora",
            config: own,
            overrides: kept(&masks, layers, rank, alpha)?,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let rank: usize = common(layers, "rank")?;
        let schedule: Table = common(layers, "schedule")?;
        let phase = |key: &str| schedule.get(key).and_then(Value::as_u64);
        let (warmup, settle) = (phase("warmup").unwrap_or(0), phase("settle").unwrap_or(0));
        // Without a length of its own the run had any; PEFT wants one that is long enough.
        let steps = phase("steps").unwrap_or(warmup + settle + 1);
        let mut masks = Table::new();
        for layer in layers {
            let kept = triplets(layer).map_err(|error| error.to_string())?;
            if kept > rank {
                return Err(format!(
                    "`kept` = {kept} of {} is more than the rank {rank}",
                    layer.layer.path
                ));
            }
            let mask: Vec<bool> = (0..rank).map(|triplet| triplet < kept).collect();
            masks.insert(format!("{}.lora_E", layer.layer.path), mask.into());
        }
        let pruned = masks
            .values()
            .any(|mask| *mask != Value::from(vec![true; rank]));
        let mut keys: Table = OTHERS
            .iter()
            .map(|key| ((*key).to_owned(), Value::Null))
            .collect();
        keys.extend(table([
            ("init_r", rank.into()),
            ("target_r", common::<usize>(layers, "target-rank")?.into()),
            ("lora_alpha", number(common(layers, "alpha")?)),
            ("lora_dropout", common::<f64>(layers, "dropout")?.into()),
            (
                "orth_reg_weight",
                common::<f64>(layers, "orthogonality")?.into(),
            ),
            ("beta1", common::<f64>(layers, "beta1")?.into()),
            ("beta2", common::<f64>(layers, "beta2")?.into()),
            ("tinit", warmup.into()),
            ("tfinal", settle.into()),
            ("deltaT", phase("interval").unwrap_or(1).into()),
            ("total_step", steps.into()),
        ]));
        keys.extend(table([
            (
                "rank_pattern",
                if pruned { masks.into() } else { Value::Null },
            ),
            ("loftq_config", Table::new().into()),
            ("r", 8.into()),
            ("init_lora_weights", true.into()),
            ("use_rslora", false.into()),
            ("use_dora", false.into()),
            ("lora_bias", false.into()),
            ("use_qalora", false.into()),
            ("ensure_weight_tying", false.into()),
            ("megatron_core", "megatron.core".into()),
            ("qalora_group_size", 16.into()),
        ]));
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, triplets(layer)?);
        Ok(vec![
            Field::transposed("lora_A", "a", [rank, d_in]),
            Field::transposed("lora_B", "b", [d_out, rank]),
            Field::reshaped("lora_E", "e", &[rank, 1], &[rank]),
        ])
    }
}

/// PEFT reads an alpha of 0 or below as the present rank.
fn positive(alpha: f64, rank: usize) -> f64 {
    if alpha > 0.0 { alpha } else { rank as f64 }
}

/// Triplets that a layer has.
fn triplets(layer: &Configured) -> Result<usize> {
    match layer.config.get("kept") {
        None | Some(Value::Null) => layer.get("rank"),
        Some(_) => layer.get("kept"),
    }
}

/// How many triplets each layer kept, from PEFT's masks: `<path>.lora_E`, or with the name of the
/// adapter behind it.
fn kept(
    masks: &BTreeMap<String, Vec<bool>>,
    layers: &[LayerShape],
    rank: usize,
    alpha: f64,
) -> Result<BTreeMap<String, Table>> {
    let mut overrides = BTreeMap::new();
    for (key, mask) in masks {
        let path = key
            .split_once(".lora_E")
            .filter(|(_, name)| name.is_empty() || name.starts_with('.'))
            .map(|(path, _)| path);
        let Some(layer) = layers.iter().find(|layer| Some(&*layer.path) == path) else {
            let reason = format!("`{key}` is no adapted layer's lora_E");
            return Err(Error::config("rank_pattern", reason));
        };
        if mask.len() != rank {
            let reason = format!("`{key}` has {} entries, expected {rank}", mask.len());
            return Err(Error::config("rank_pattern", reason));
        }
        let kept = mask.iter().filter(|kept| **kept).count();
        if kept != rank {
            let mut own = table([("kept", kept.into())]);
            if alpha <= 0.0 {
                own.insert("alpha".to_owned(), positive(alpha, kept).into());
            }
            overrides.insert(layer.path.clone(), own);
        }
    }
    Ok(overrides)
}
