//! HRA.

use engraft_core::{LayerKind, LayerShape};
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// y = (x H_r ... H_1) W + b with Householder reflections H_k.
pub(super) struct Hra;

impl PeftType for Hra {
    fn name(&self) -> &'static str {
        "HRA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["hra"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Conv2d { .. })
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        if rank == 0 {
            return Err(Error::config("r", "found 0: expected at least 1"));
        }
        let orthogonality = if config.get("apply_GS", false)? {
            "gram-schmidt"
        } else {
            "free"
        };
        config.skip(&["init_weights"]);
        Ok(Settings {
            method: "hra",
            config: table([
                ("rank", rank.into()),
                ("orthogonality", orthogonality.into()),
            ]),
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        // A penalty acts on the loss alone: what it trained is read as free reflections.
        let orthogonality: Value = common(layers, "orthogonality")?;
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("apply_GS", (orthogonality == json!("gram-schmidt")).into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        Ok(vec![Field::same(
            "hra_u",
            "u",
            &[layer.layer.d_in, layer.get("rank")?],
        )])
    }
}
