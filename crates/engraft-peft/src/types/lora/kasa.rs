//! KaSA: B diag(d) A beside a base without its smallest singular values.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{Configured, Field, Result, Settings, Variant, common, entries, entry, finish};

pub(super) struct Kasa;

const KEY: &str = "kasa_config";

impl Variant for Kasa {
    fn key(&self) -> &'static str {
        KEY
    }

    fn method(&self) -> &'static str {
        "kasa"
    }

    fn read(&self, value: Value, _: &[LayerShape], settings: &mut Settings) -> Result<()> {
        let mut own = entries(value, KEY)?;
        let beta: f64 = entry(&mut own, KEY, "beta", 1e-4)?;
        let gamma: f64 = entry(&mut own, KEY, "gamma", 1e-3)?;
        finish(own, KEY)?;
        settings.config.insert("beta".to_owned(), beta.into());
        settings.config.insert("gamma".to_owned(), gamma.into());
        Ok(())
    }

    fn write(&self, layers: &[Configured]) -> Result<Value, String> {
        Ok(json!({
            "beta": common::<f64>(layers, "beta")?,
            "gamma": common::<f64>(layers, "gamma")?,
        }))
    }

    fn fields(&self, layer: &Configured, mut lora: Vec<Field>) -> Result<Vec<Field>> {
        lora.push(Field::same("lora_diag", "diag", &[layer.get("rank")?]));
        Ok(lora)
    }
}
