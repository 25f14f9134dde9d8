//! ROAD: RoAd in its three variants.

use engraft_core::LayerShape;
use serde_json::Value;

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// y = (x W + b) R with R of scaled rotations of pairs.
pub(super) struct Road;

/// PEFT's name of a variant, Engraft's, and the number of angles for each output.
const VARIANTS: [(&str, &str, f64); 3] = [
    ("road_1", "road-1", 0.5),
    ("road_2", "road-2", 1.0),
    ("road_4", "road-4", 2.0),
];

impl PeftType for Road {
    fn name(&self) -> &'static str {
        "ROAD"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["road"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &[
            "bias",
            "exclude_modules",
            "fan_in_fan_out",
            "layers_to_transform",
            "layers_pattern",
        ]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let variant: String = config.get("variant", "road_1".to_owned())?;
        let group_size: usize = config.get("group_size", 64)?;
        config.skip(&["init_weights"]);
        let Some((_, variant, _)) = VARIANTS.iter().find(|(peft, ..)| *peft == variant) else {
            return Err(Error::config(
                "variant",
                format!("found `{variant}`: expected road_1, road_2 or road_4"),
            ));
        };
        Ok(Settings {
            method: "road",
            config: table([
                ("variant", (*variant).into()),
                ("group-size", group_size.into()),
            ]),
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let variant: String = common(layers, "variant")?;
        let variant = VARIANTS
            .iter()
            .find_map(|(peft, own, _)| (*own == variant).then_some(*peft));
        let keys = table([
            ("variant", variant.map_or(Value::Null, Value::from)),
            ("group_size", common::<usize>(layers, "group-size")?.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let variant: String = layer.get("variant")?;
        let share = VARIANTS
            .iter()
            .find_map(|(_, own, share)| (*own == variant).then_some(*share));
        let angles = (share.unwrap_or_default() * layer.layer.d_out as f64) as usize;
        Ok(vec![
            Field::same("road_theta", "theta", &[angles]),
            Field::same("road_alpha", "alpha", &[angles]),
        ])
    }
}
