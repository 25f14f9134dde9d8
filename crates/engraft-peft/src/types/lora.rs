//! LORA: LoRA, rsLoRA and DoRA.

use engraft_core::{LayerKind, LayerShape};
use serde_json::Value;

use super::{Configured, PeftType, Settings, Table, Written, common, patterns, ranks, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::Field;

/// Options of other methods that PEFT keeps in its LoRA configuration.
const OTHERS: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// y = x W + b + s (x A B + c); with DoRA, the columns of W + s A B at the length m.
pub(super) struct Lora;

impl PeftType for Lora {
    fn name(&self) -> &'static str {
        "LORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["lora", "dora"]
    }

    fn takes(&self, _: LayerKind) -> bool {
        true
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        let alpha: f64 = config.get("lora_alpha", 8.0)?;
        let dropout: f64 = config.get("lora_dropout", 0.0)?;
        let stabilised: bool = config.get("use_rslora", false)?;
        let dora: bool = config.get("use_dora", false)?;
        let bias: bool = config.get("lora_bias", false)?;
        let overrides = ranks(config, layers, rank, alpha)?;
        judge_init(config)?;
        config.refuse(&OTHERS)?;
        config.skip(&["megatron_core", "qalora_group_size", "runtime_config"]);
        let scaling = if stabilised {
            "rank-stabilised"
        } else {
            "classic"
        };
        let mut own = table([
            ("rank", rank.into()),
            ("alpha", alpha.into()),
            ("scaling", scaling.into()),
            ("dropout", dropout.into()),
        ]);
        if dora && bias {
            return Err(Error::config(
                "lora_bias",
                "true together with `use_dora`, which PEFT refuses too",
            ));
        }
        if !dora {
            own.insert("bias".to_owned(), bias.into());
        }
        Ok(Settings {
            method: if dora { "dora" } else { "lora" },
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (rank, alpha, rank_pattern, alpha_pattern) = patterns(layers)?;
        let dora = layers[0].method == "dora";
        let stabilised = common::<String>(layers, "scaling")? == "rank-stabilised";
        let bias = !dora && common::<bool>(layers, "bias")?;
        let mut keys: Table = OTHERS
            .iter()
            .map(|key| ((*key).to_owned(), Value::Null))
            .collect();
        keys.extend(table([
            ("loftq_config", Table::new().into()),
            ("ensure_weight_tying", false.into()),
            ("use_qalora", false.into()),
        ]));
        keys.extend(table([
            ("r", rank.into()),
            ("lora_alpha", number(alpha)),
            ("lora_dropout", common::<f64>(layers, "dropout")?.into()),
            ("use_rslora", stabilised.into()),
            ("use_dora", dora.into()),
            ("lora_bias", bias.into()),
            ("init_lora_weights", true.into()),
            ("megatron_core", "megatron.core".into()),
            ("qalora_group_size", 16.into()),
        ]));
        Ok(Written {
            keys,
            rank_pattern,
            alpha_pattern,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, layer.get("rank")?);
        let kind = layer.layer.kind;
        let (down, up, magnitude) = match kind {
            LayerKind::Conv2d {
                kernel: [rows, columns],
            } => (
                vec![rank, d_in / kind.pixels(), rows, columns],
                vec![d_out, rank, 1, 1],
                vec![1, d_out, 1, 1],
            ),
            _ => (vec![rank, d_in], vec![d_out, rank], vec![d_out]),
        };
        let (down_key, up_key) = match kind {
            LayerKind::Embedding => ("lora_embedding_A", "lora_embedding_B"),
            _ => ("lora_A.weight", "lora_B.weight"),
        };
        let mut fields = vec![
            Field::transposed(down_key, "a", &down),
            Field::transposed(up_key, "b", &up),
        ];
        if layer.method == "dora" {
            fields.push(Field::reshaped(
                "lora_magnitude_vector",
                "magnitude",
                &magnitude,
                &[d_out],
            ));
        } else if layer.get("bias")? {
            fields.push(Field::same("lora_B.bias", "c", &[d_out]));
        }
        Ok(fields)
    }
}

/// Inits that only matter before training are read; PiSSA's, which changed the base, with a
/// warning.
fn judge_init(config: &mut Reader) -> Result<()> {
    match config.find::<Value>("init_lora_weights")? {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(init)) if init == "gaussian" || init == "orthogonal" => Ok(()),
        Some(Value::String(init)) if init.starts_with("pissa") => {
            config.warn(format!("`init_lora_weights` = \"{init}\": the file lacks the residual that PiSSA left of the base; read as plain LoRA, right only on that residual"));
            Ok(())
        }
        Some(other) => Err(Error::Unsupported(format!(
            "`init_lora_weights` = {other} is not supported yet"
        ))),
    }
}
