//! SHIRA: SHiRA. The positions of the trained entries are in the file.

use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::Result;
use crate::field::{Field, Layout};

/// W' = W + S with S zero but for fixed positions.
pub(super) struct Shira;

impl PeftType for Shira {
    fn name(&self) -> &'static str {
        "SHIRA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["shira"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &[
            "bias",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
        ]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 32)?;
        // How the positions were found; they are read from the file.
        config.skip(&["mask_type", "random_seed", "init_weights"]);
        let own = table([("rank", rank.into()), ("scale", 1.0.into())]);
        Ok(Settings {
            method: "shira",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        if common::<Option<f64>>(layers, "density")?.is_some() {
            return Err("PEFT counts entries by rank, not by density".to_owned());
        }
        let scale: f64 = common(layers, "scale")?;
        if scale != 1.0 {
            return Err(format!("scale {scale}: PEFT's file has none, expected 1"));
        }
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("mask_type", "random".into()),
            ("random_seed", serde_json::Value::Null),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out) = (layer.layer.d_in, layer.layer.d_out);
        let entries = layer.get::<usize>("rank")? * (d_in + d_out);
        let positions = Field {
            peft: "shira_indices".into(),
            own: "positions".into(),
            shape: vec![2, entries],
            layout: Layout::Coordinates { d_in, d_out },
        };
        Ok(vec![
            Field::same("shira_weight", "values", &[entries]),
            positions,
        ])
    }
}
