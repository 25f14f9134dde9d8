//! VeLoRA: LoRA with a compressed backward pass, whose direction is saved.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{Configured, Field, Result, Settings, Variant, common, entries, entry, finish, nested};
use crate::error::Error;

pub(super) struct Velora;

const KEY: &str = "velora_config";

/// Names of the choice of direction, in PEFT and here.
const PROJECTIONS: [(&str, &str); 3] = [
    ("batch_average", "batch-average"),
    ("batch_average_once", "batch-average-once"),
    ("random", "random"),
];

impl Variant for Velora {
    fn key(&self) -> &'static str {
        KEY
    }

    fn method(&self) -> &'static str {
        "velora"
    }

    fn has_offset(&self) -> bool {
        true
    }

    fn read(&self, value: Value, _: &[LayerShape], settings: &mut Settings) -> Result<()> {
        let mut own = entries(value, KEY)?;
        let groups: usize = entry(&mut own, KEY, "num_groups", 64)?;
        let scale: f64 = entry(&mut own, KEY, "scale", 1.0)?;
        let init: String = entry(&mut own, KEY, "init_type", "batch_average".to_owned())?;
        finish(own, KEY)?;
        let projection = PROJECTIONS.iter().find(|(peft, _)| *peft == init);
        let (_, projection) = projection.ok_or_else(|| {
            let known = PROJECTIONS.map(|(peft, _)| peft).join(", ");
            Error::config(
                KEY,
                format!("`init_type`: found `{init}`, expected one of {known}"),
            )
        })?;
        settings.config.insert("groups".to_owned(), groups.into());
        settings.config.insert("scale".to_owned(), scale.into());
        settings
            .config
            .insert("projection".to_owned(), (*projection).into());
        Ok(())
    }

    fn write(&self, layers: &[Configured]) -> Result<Value, String> {
        let projection: String = common(layers, "projection")?;
        let init = PROJECTIONS.iter().find(|(_, own)| *own == projection);
        Ok(json!({
            "num_groups": common::<usize>(layers, "groups")?,
            "scale": common::<f64>(layers, "scale")?,
            "init_type": init.map(|(peft, _)| *peft),
        }))
    }

    fn fields(&self, layer: &Configured, lora: Vec<Field>) -> Result<Vec<Field>> {
        let groups: usize = layer.get("groups")?;
        let width = layer.layer.d_in.div_ceil(groups.max(1));
        let mut fields = nested(lora);
        fields.push(Field::same("lora_velora_embed", "embed", &[width]));
        Ok(fields)
    }
}
