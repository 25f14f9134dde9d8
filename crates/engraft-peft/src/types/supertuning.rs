//! SUPERTUNING: Super-Tuning and its hybrid with LoRA, Supra.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::{Field, Layout};

/// W' = W + S + s A B with S zero but at the extreme weights.
pub(super) struct Supertuning;

impl PeftType for Supertuning {
    fn name(&self) -> &'static str {
        "SUPERTUNING"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["supertuning"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &[
            "bias",
            "fan_in_fan_out",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
        ]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: Option<usize> = config.find("r")?;
        let alpha: Option<f64> = config.find("lora_alpha")?;
        let dropout: f64 = config.get("lora_dropout", 0.0)?;
        let sparsity: f64 = config.get("sparsity", 0.99)?;
        let largest: bool = config.get("select_top", true)?;
        let saved: bool = config.get("save_precomputed_indices", true)?;
        config.skip(&["init_weights"]);
        let supra = match (rank, alpha) {
            (None, Some(alpha)) => {
                return Err(Error::config(
                    "lora_alpha",
                    format!("{alpha} without `r`: expected both or neither"),
                ));
            }
            (None, None) => Value::Null,
            (Some(rank), alpha) => json!({
                "rank": rank,
                "alpha": alpha.unwrap_or(2.0 * rank as f64),
                "dropout": dropout,
            }),
        };
        if !saved {
            config.warn("the indices are not in the file: found again from the magnitudes of the base weights".to_owned());
        }
        let own = table([
            ("sparsity", sparsity.into()),
            (
                "support",
                if largest { "largest" } else { "smallest" }.into(),
            ),
            ("supra", supra),
            ("store-positions", saved.into()),
        ]);
        Ok(Settings {
            method: "supertuning",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let supra: Value = common(layers, "supra")?;
        let rank = supra.get("rank").cloned().unwrap_or_default();
        let alpha = match (supra.get("alpha").and_then(Value::as_f64), rank.as_f64()) {
            (Some(alpha), _) => number(alpha),
            (None, Some(rank)) => number(2.0 * rank),
            (None, None) => Value::Null,
        };
        let dropout = supra.get("dropout").cloned().unwrap_or(json!(0.0));
        let support: String = common(layers, "support")?;
        let keys = table([
            ("r", rank),
            ("lora_alpha", alpha),
            ("lora_dropout", dropout),
            ("sparsity", common::<f64>(layers, "sparsity")?.into()),
            ("select_top", (support == "largest").into()),
            (
                "save_precomputed_indices",
                common::<bool>(layers, "store-positions")?.into(),
            ),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out) = (layer.layer.d_in, layer.layer.d_out);
        let sparsity: f64 = layer.get("sparsity")?;
        // As PEFT rounds.
        let entries = ((d_in * d_out) as f64 * (1.0 - sparsity)) as usize;
        let mut fields = vec![Field::same("supertuning_values", "values", &[entries])];
        if layer.get("store-positions")? {
            fields.push(Field {
                peft: "supertuning_indices".into(),
                own: "positions".into(),
                shape: vec![entries],
                layout: Layout::Flat { d_in, d_out },
            });
        }
        let supra: Value = layer.get("supra")?;
        if let Some(rank) = supra.get("rank").and_then(Value::as_u64) {
            let rank = rank as usize;
            fields.push(Field::transposed(
                "supertuning_lora_A.weight",
                "a",
                [rank, d_in],
            ));
            fields.push(Field::transposed(
                "supertuning_lora_B.weight",
                "b",
                [d_out, rank],
            ));
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        let layer = LayerShape::linear("fc1", 24, 16, true);
        for keys in [
            json!({"r": null, "lora_alpha": null, "lora_dropout": 0.0, "sparsity": 0.9,
                "select_top": false, "save_precomputed_indices": false, "init_weights": true}),
            json!({"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "sparsity": 0.5,
                "select_top": true, "save_precomputed_indices": true, "init_weights": true}),
        ] {
            let mut reader = Reader::new(&keys.clone().try_into().unwrap());
            let settings = Supertuning.read(&mut reader, &[]).unwrap();
            let configured = Configured {
                layer: layer.clone(),
                method: settings.method.to_owned(),
                config: settings.config,
            };
            let written = Supertuning.write(&[configured]).unwrap();
            assert_eq!(Value::Object(written.keys), keys);
        }
        let odd = json!({"lora_alpha": 3});
        assert!(
            Supertuning
                .read(&mut Reader::new(&odd.try_into().unwrap()), &[])
                .is_err()
        );
    }
}
