//! MISS: MiSS with its variants Bat and Mini.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// y = x W + b + fold(x) D.
pub(super) struct Miss;

impl PeftType for Miss {
    fn name(&self) -> &'static str {
        "MISS"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["miss"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 64)?;
        let width: usize = config.get("mini_r", 1)?;
        let mut dropout: f64 = config.get("miss_dropout", 0.0)?;
        let variant = match config.find::<Value>("init_weights")? {
            None | Some(Value::Bool(_)) => json!("balance"),
            Some(Value::String(variant)) if variant == "bat" => json!("bat"),
            Some(Value::String(variant)) if variant == "mini" => json!({"mini": {"width": width}}),
            Some(other) => {
                return Err(Error::config(
                    "init_weights",
                    format!("found {other}, expected a truth value, \"bat\" or \"mini\""),
                ));
            }
        };
        if variant == "bat" && dropout > 0.0 {
            config.warn(format!(
                "`miss_dropout` = {dropout}: PEFT ignores it with `bat`, and so it is dropped"
            ));
            dropout = 0.0;
        }
        let own = table([
            ("rank", rank.into()),
            ("variant", variant),
            ("dropout", dropout.into()),
        ]);
        Ok(Settings {
            method: "miss",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let variant: Value = common(layers, "variant")?;
        let width = variant.pointer("/mini/width").and_then(Value::as_u64);
        let init: Value = match (width, variant == "bat") {
            (Some(_), _) => "mini".into(),
            (None, true) => "bat".into(),
            (None, false) => true.into(),
        };
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("miss_dropout", common::<f64>(layers, "dropout")?.into()),
            ("mini_r", width.unwrap_or(1).into()),
            ("init_weights", init),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (rank, d_out): (usize, usize) = (layer.get("rank")?, layer.layer.d_out);
        let variant: Value = layer.get("variant")?;
        if variant == "bat" {
            let shape = [d_out / rank.max(1), rank, rank];
            return Ok(vec![Field::same("miss_block", "shards", &shape)]);
        }
        let width = variant.pointer("/mini/width").and_then(Value::as_u64);
        let columns = width.map_or(d_out, |width| width as usize);
        Ok(vec![Field::reshaped(
            "miss_block",
            "shards",
            &[rank, columns],
            &[1, rank, columns],
        )])
    }
}
