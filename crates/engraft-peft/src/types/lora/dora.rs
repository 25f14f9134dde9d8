//! DoRA: the columns of W + s A B at the length m.

use engraft_core::{LayerKind, LayerShape};
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

    fn takes(&self, kind: LayerKind) -> bool {
        kind != LayerKind::Experts
    }

    fn read(&self, _: Value, _: &[LayerShape], _: &mut Settings) -> Result<()> {
        Ok(())
    }

    fn write(&self, _: &[Configured]) -> Result<Value, String> {
        Ok(Value::Bool(true))
    }

    fn fields(&self, layer: &Configured, mut lora: Vec<Field>) -> Result<Vec<Field>> {
        let (kind, d_out) = (layer.layer.kind, layer.layer.d_out);
        let shape = match kind {
            LayerKind::Conv2d { .. } => vec![1, d_out, 1, 1],
            _ => vec![d_out],
        };
        lora.push(Field::reshaped(
            "lora_magnitude_vector",
            "magnitude",
            &shape,
            &[d_out],
        ));
        Ok(lora)
    }
}
