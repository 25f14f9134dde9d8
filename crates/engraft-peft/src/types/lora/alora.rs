//! aLoRA: LoRA from an invocation sequence on.

use engraft_core::LayerShape;
use serde_json::Value;

use super::{Configured, Field, Result, Settings, Variant, common, nested};
use crate::error::Error;

pub(super) struct Alora;

const KEY: &str = "alora_invocation_tokens";

impl Variant for Alora {
    fn key(&self) -> &'static str {
        KEY
    }

    fn method(&self) -> &'static str {
        "alora"
    }

    fn has_offset(&self) -> bool {
        true
    }

    fn read(&self, value: Value, _: &[LayerShape], settings: &mut Settings) -> Result<()> {
        let tokens: Vec<i64> = serde_json::from_value(value.clone())
            .map_err(|error| Error::config(KEY, format!("found {value}: {error}")))?;
        settings
            .config
            .insert("invocation".to_owned(), tokens.into());
        Ok(())
    }

    fn write(&self, layers: &[Configured]) -> Result<Value, String> {
        Ok(common::<Vec<i64>>(layers, "invocation")?.into())
    }

    fn fields(&self, _: &Configured, lora: Vec<Field>) -> Result<Vec<Field>> {
        Ok(nested(lora))
    }
}
