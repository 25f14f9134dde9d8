//! HIRA: HiRA.

use engraft_core::{LayerKind, LayerShape};
use serde_json::Value;

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// W' = W . (1 + A B).
pub(super) struct Hira;

impl PeftType for Hira {
    fn name(&self) -> &'static str {
        "HIRA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["hira"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        kind != LayerKind::Experts
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 32)?;
        let dropout: f64 = config.get("hira_dropout", 0.0)?;
        if !config.rank_pattern().0.is_empty() {
            // PEFT 0.21.2 looks the rank of a layer up, and then makes the layer with `r`.
            config.warn(format!(
                "`rank_pattern`: PEFT does not apply it to HiRA, all layers have r = {rank}"
            ));
        }
        let init = match config.find::<Value>("init_weights")? {
            None | Some(Value::Bool(_)) => "kaiming-uniform",
            Some(Value::String(init)) if init.eq_ignore_ascii_case("gaussian") => "gaussian",
            Some(other) => {
                return Err(Error::config(
                    "init_weights",
                    format!("found {other}, expected a truth value or \"gaussian\""),
                ));
            }
        };
        let own = table([
            ("rank", rank.into()),
            ("dropout", dropout.into()),
            ("init", init.into()),
        ]);
        Ok(Settings {
            method: "hira",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let init: Value = match common::<String>(layers, "init")?.as_str() {
            "gaussian" => "gaussian".into(),
            _ => true.into(),
        };
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("hira_dropout", common::<f64>(layers, "dropout")?.into()),
            ("init_weights", init),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, layer.get("rank")?);
        let kind = layer.layer.kind;
        let [a, b] = match kind {
            LayerKind::Embedding => ["hira_embedding_A", "hira_embedding_B"],
            _ => ["hira_A", "hira_B"],
        };
        let (a_shape, b_shape) = match kind {
            LayerKind::Conv2d {
                kernel: [rows, columns],
            } => (
                vec![rank, d_in / kind.pixels(), rows, columns],
                vec![d_out, rank, 1, 1],
            ),
            _ => (vec![rank, d_in], vec![d_out, rank]),
        };
        Ok(vec![
            Field::transposed(a, "a", &a_shape),
            Field::transposed(b, "b", &b_shape),
        ])
    }
}
