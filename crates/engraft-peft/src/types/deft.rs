//! DEFT: DEFT, and PaRa as its option.

use engraft_core::LayerShape;
use serde_json::Value;

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::Field;

/// W' = W (I - S Q^T) + s R Q^T; with `para`, without the second term.
pub(super) struct Deft;

impl PeftType for Deft {
    fn name(&self) -> &'static str {
        "DEFT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["deft", "para"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        let para: bool = config.get("para", false)?;
        let dropout: f64 = config.get("deft_dropout", 0.0)?;
        // PEFT takes an alpha of 0 for none.
        let alpha = config.find::<f64>("alpha")?.filter(|alpha| *alpha != 0.0);
        let method: String = config.get("decomposition_method", "relu".to_owned())?;
        if !["relu", "qr"].contains(&method.as_str()) {
            return Err(Error::config(
                "decomposition_method",
                format!("found `{method}`, expected relu or qr"),
            ));
        }
        config.skip(&["init_scale", "init_weights"]);
        let mut own = table([("rank", rank.into()), ("projection", method.into())]);
        if !para {
            own.extend(table([
                ("alpha", alpha.into()),
                ("dropout", dropout.into()),
            ]));
        }
        Ok(Settings {
            method: if para { "para" } else { "deft" },
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let para = layers[0].method == "para";
        let (alpha, dropout) = if para {
            (None, 0.0)
        } else {
            (
                common::<Option<f64>>(layers, "alpha")?,
                common(layers, "dropout")?,
            )
        };
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            (
                "decomposition_method",
                common::<String>(layers, "projection")?.into(),
            ),
            ("init_scale", 1.0.into()),
            ("alpha", alpha.map_or(Value::Null, number)),
            ("para", para.into()),
            ("deft_dropout", dropout.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out) = (layer.layer.d_in, layer.layer.d_out);
        let rank = layer.get::<usize>("rank")?.min(d_out);
        let mut fields = vec![Field::same("deft_P", "p", &[d_out, rank])];
        if layer.method == "deft" {
            fields.push(Field::transposed("deft_R", "r", [rank, d_in]));
        }
        Ok(fields)
    }
}
