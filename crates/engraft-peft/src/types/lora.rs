//! LORA: LoRA, rsLoRA and the variants that PEFT keeps under this type.

mod alora;
mod bdlora;
mod dora;
mod kasa;
mod loftq;
mod monteclora;
mod residual;
mod velora;

use engraft_core::{LayerKind, LayerShape};
use serde_json::Value;

use super::{Configured, PeftType, Settings, Table, Written, common, patterns, ranks, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::Field;
use crate::ties;

/// Keys of what Engraft does not have, with PEFT's default.
const OTHERS: [(&str, Value); 5] = [
    ("arrow_config", Value::Null),
    ("ensure_weight_tying", Value::Bool(false)),
    ("layer_replication", Value::Null),
    ("megatron_config", Value::Null),
    ("trainable_token_indices", Value::Null),
];

/// Keys that matter to PEFT's inits only: a finished adapter does not depend on them.
const INITS: [&str; 4] = [
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
];

/// Methods whose residual of the base neither PEFT's file nor the base determines.
const UNDETERMINED: [&str; 2] = ["corda", "lora-ga"];

/// Which init A and B had.
const INIT: &str = "init_lora_weights";

/// A computation other than LoRA's, chosen by one key of the configuration.
trait Variant: Sync {
    /// The key, null, false or empty where the variant is not meant.
    fn key(&self) -> &'static str;

    /// Id of its method.
    fn method(&self) -> &'static str;

    /// Whether the key's value asks for this variant.
    fn is_asked(&self, value: &Value, config: &Reader) -> bool {
        let _ = config;
        match value {
            Value::Null => false,
            Value::Bool(asked) => *asked,
            _ => true,
        }
    }

    /// Whether PEFT has the variant for layers of a kind.
    fn takes(&self, kind: LayerKind) -> bool {
        kind == LayerKind::Linear
    }

    /// Whether `lora_bias` may be set.
    fn has_offset(&self) -> bool {
        false
    }

    /// Reads the key's value into the settings, which hold LoRA's own.
    fn read(&self, value: Value, layers: &[LayerShape], settings: &mut Settings) -> Result<()>;

    /// The key's value for these layers.
    ///
    /// # Errors
    /// Settings that PEFT cannot express, as a reason.
    fn write(&self, layers: &[Configured]) -> Result<Value, String>;

    /// The key under which its own settings lie, where they do not lie under [`key`](Self::key).
    fn settings(&self) -> Option<&'static str> {
        None
    }

    /// The value of [`settings`](Self::settings) for these layers.
    ///
    /// # Errors
    /// Settings that PEFT cannot express, as a reason.
    fn write_settings(&self, layers: &[Configured]) -> Result<Value, String> {
        let _ = layers;
        Ok(Value::Null)
    }

    /// The parameters on a layer; `lora` are LoRA's.
    fn fields(&self, layer: &Configured, lora: Vec<Field>) -> Result<Vec<Field>>;

    /// Parameters that PEFT computes again from the base.
    fn derived(&self) -> &'static [&'static str] {
        &[]
    }
}

static VARIANTS: &[&dyn Variant] = &[
    &alora::Alora,
    &bdlora::BdLora,
    &dora::Dora,
    &kasa::Kasa,
    &loftq::Loftq,
    &monteclora::Monteclora,
    &velora::Velora,
    &residual::MICA,
    &residual::PISSA,
    &residual::OLORA,
];

/// The variant of a method; none for LoRA itself and its ways of training.
fn variant(method: &str) -> Option<&'static dyn Variant> {
    let mut found = VARIANTS.iter().filter(|variant| variant.method() == method);
    found.next().copied()
}

/// y = x W + b + s (x A B + c), and its variants.
pub(super) struct Lora;

impl PeftType for Lora {
    fn name(&self) -> &'static str {
        "LORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &[
            "lora",
            "lora-fa",
            "lora-plus",
            "alora",
            "bd-lora",
            "corda",
            "dora",
            "eva",
            "kasa",
            "loftq",
            "lora-ga",
            "mica",
            "monteclora",
            "olora",
            "pissa",
            "velora",
        ]
    }

    fn takes(&self, _: LayerKind) -> bool {
        true
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        let alpha: f64 = config.get("lora_alpha", 8.0)?;
        let dropout: f64 = config.get("lora_dropout", 0.0)?;
        let stabilised: bool = config.get("use_rslora", false)?;
        let bias: bool = config.get("lora_bias", false)?;
        let overrides = ranks(config, layers, rank, alpha)?;
        let init: Value = config.get(INIT, Value::Bool(true))?;
        let mut asked = Vec::new();
        for variant in VARIANTS {
            let value = match variant.key() {
                INIT => init.clone(),
                key => config.get(key, Value::Null)?,
            };
            if variant.is_asked(&value, config) {
                asked.push((*variant, value));
            }
        }
        if config.get("use_qalora", false)? {
            config.warn(
                "`use_qalora` acts on GPTQ layers only; on others PEFT computes plain LoRA, as here"
                    .to_owned(),
            );
        }
        config.refuse(&OTHERS.map(|(key, _)| key))?;
        config.skip(&["megatron_core", "qalora_group_size", "runtime_config"]);
        let scaling = if stabilised {
            "rank-stabilised"
        } else {
            "classic"
        };
        let mut settings = Settings {
            method: "lora",
            config: table([
                ("rank", rank.into()),
                ("alpha", alpha.into()),
                ("scaling", scaling.into()),
                ("dropout", dropout.into()),
            ]),
            overrides,
            ..Settings::default()
        };
        let mut asked = asked.into_iter();
        let (chosen, second) = (asked.next(), asked.next());
        if let (Some((first, _)), Some((second, _))) = (&chosen, &second) {
            return Err(Error::Unsupported(format!(
                "`{}` together with `{}` is not supported",
                first.key(),
                second.key()
            )));
        }
        if chosen
            .as_ref()
            .is_none_or(|(variant, _)| variant.has_offset())
        {
            settings.config.insert("bias".to_owned(), bias.into());
        } else if let (Some((variant, _)), true) = (&chosen, bias) {
            return Err(Error::config(
                "lora_bias",
                format!("true together with `{}`, which has none", variant.key()),
            ));
        }
        if chosen
            .as_ref()
            .is_none_or(|(variant, _)| variant.key() != INIT)
        {
            residual::judge(&init, config)?;
        }
        if let Some((variant, value)) = chosen {
            if let Some(layer) = layers.iter().find(|layer| !variant.takes(layer.kind)) {
                return Err(Error::Unsupported(format!(
                    "{}: PEFT has no `{}` for layers of kind {:?}",
                    layer.path,
                    variant.key(),
                    layer.kind
                )));
            }
            settings.method = variant.method();
            let value = match variant.settings() {
                Some(key) => config.get(key, Value::Null)?,
                None => value,
            };
            variant.read(value, layers, &mut settings)?;
        }
        config.skip(&INITS);
        Ok(settings)
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let method = layers[0].method.as_str();
        if UNDETERMINED.contains(&method) {
            return Err(
                "it started from data and left a residual of the base, which PEFT's file does not hold; write it as plain LoRA of twice the rank on the original base"
                    .to_owned(),
            );
        }
        let layers: Vec<Configured> = layers.iter().map(with_alpha).collect();
        let layers = layers.as_slice();
        let (rank, alpha, rank_pattern, alpha_pattern) = patterns(layers)?;
        let stabilised = common::<String>(layers, "scaling")? == "rank-stabilised";
        // Not a setting of every method, and not of every layer of BD-LoRA.
        let bias = layers.iter().any(has_bias);
        let mut keys: Table = OTHERS
            .iter()
            .map(|(key, default)| ((*key).to_owned(), default.clone()))
            .collect();
        if layers
            .iter()
            .any(|layer| layer.get(ties::TIED).unwrap_or(false))
        {
            keys.insert(ties::KEY.to_owned(), true.into());
        }
        keys.extend(table(INITS.map(|key| (key, Value::Null))));
        keys.extend(table([
            ("loftq_config", Table::new().into()),
            ("r", rank.into()),
            ("lora_alpha", number(alpha)),
            ("lora_dropout", common::<f64>(layers, "dropout")?.into()),
            ("use_rslora", stabilised.into()),
            ("lora_bias", bias.into()),
            ("megatron_core", "megatron.core".into()),
            ("use_qalora", false.into()),
            ("qalora_group_size", 16.into()),
        ]));
        keys.extend(VARIANTS.iter().map(|variant| {
            let default = if variant.key() == "use_dora" {
                Value::Bool(false)
            } else {
                Value::Null
            };
            (variant.key().to_owned(), default)
        }));
        keys.insert(INIT.to_owned(), Value::Bool(true));
        if let Some(variant) = variant(&layers[0].method) {
            keys.insert(variant.key().to_owned(), variant.write(layers)?);
            if let Some(key) = variant.settings() {
                keys.insert(key.to_owned(), variant.write_settings(layers)?);
            }
        }
        Ok(Written {
            keys,
            rank_pattern,
            alpha_pattern,
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, layer.get("rank")?);
        let kind = layer.layer.kind;
        let (down, up) = match kind {
            LayerKind::Conv2d {
                kernel: [rows, columns],
            } => (
                vec![rank, d_in / kind.pixels(), rows, columns],
                vec![d_out, rank, 1, 1],
            ),
            _ => (vec![rank, d_in], vec![d_out, rank]),
        };
        let (down_key, up_key) = match kind {
            LayerKind::Embedding => ("lora_embedding_A", "lora_embedding_B"),
            _ => ("lora_A.weight", "lora_B.weight"),
        };
        let mut fields = vec![
            Field::transposed(down_key, "a", &down),
            Field::transposed(up_key, "b", &up),
        ];
        if has_bias(layer) {
            fields.push(Field::same("lora_B.bias", "c", &[d_out]));
        }
        match variant(&layer.method) {
            Some(variant) => variant.fields(layer, fields),
            None => Ok(fields),
        }
    }

    fn derived(&self, method: &str) -> &'static [&'static str] {
        match (variant(method), method) {
            (Some(variant), _) => variant.derived(),
            // Its B starts at zero, so that nothing is taken from the base.
            (None, "eva") => &["a0", "b0"],
            (None, _) => &[],
        }
    }
}

/// A layer's configuration with alpha written out: some methods take the rank where it is left out.
fn with_alpha(layer: &Configured) -> Configured {
    let mut layer = layer.clone();
    if layer.config.get("alpha").is_some_and(Value::is_null) {
        let rank = layer.config.get("rank").cloned().unwrap_or_default();
        layer.config.insert("alpha".to_owned(), rank);
    }
    layer
}

/// Whether a layer's method trains an offset behind B.
fn has_bias(layer: &Configured) -> bool {
    layer.get("bias").unwrap_or(false)
}

/// The same fields inside the adapter's LoRA.
fn nested(fields: Vec<Field>) -> Vec<Field> {
    let inner = |field: Field| Field {
        own: format!("lora.{}", field.own).into(),
        ..field
    };
    fields.into_iter().map(inner).collect()
}

/// A value of a variant's own table, or PEFT's default.
fn entry<T: serde::de::DeserializeOwned>(
    table: &mut Table,
    within: &str,
    key: &str,
    default: T,
) -> Result<T> {
    match table.remove(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|error| Error::config(within, format!("`{key}`: found {value}: {error}"))),
    }
}

/// A variant's own table.
fn entries(value: Value, within: &str) -> Result<Table> {
    match value {
        Value::Object(table) => Ok(table),
        other => Err(Error::config(
            within,
            format!("found {other}, expected a table"),
        )),
    }
}

/// Refuses what is left of a variant's own table.
fn finish(table: Table, within: &str) -> Result<()> {
    match table.into_iter().find(|(_, value)| !value.is_null()) {
        None => Ok(()),
        Some((key, value)) => Err(Error::config(
            within,
            format!("unknown key `{key}` = {value}"),
        )),
    }
}
