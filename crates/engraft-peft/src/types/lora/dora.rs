//! DoRA: the columns of W + s A B at the length m.

use engraft_core::LayerShape;
use serde_json::Value;

use super::{Configured, Field, Result, Settings, Variant};

pub(super) struct Dora;

impl Variant for Dora {
    fn key(&self) -> &'static str {
        "use_dora"
    }

    fn method(&self) -> &'static str {
        "dora"
    }

    fn read(&self, _: Value, _: &[LayerShape], _: &mut Settings) -> Result<()> {
        Ok(())
    }

    fn write(&self, _: &[Configured]) -> Result<Value, String> {
        Ok(Value::Bool(true))
    }

    fn fields(&self, layer: &Configured, mut lora: Vec<Field>) -> Result<Vec<Field>> {
        let shape = [layer.layer.d_out];
        lora.push(Field::same("lora_magnitude_vector", "magnitude", &shape));
        Ok(lora)
    }
}
