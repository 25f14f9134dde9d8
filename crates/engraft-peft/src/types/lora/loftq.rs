//! LoftQ: its own init, with settings under a key of their own.

use engraft_core::{LayerKind, LayerShape};
use serde_json::{Value, json};

use super::{Configured, Field, INIT, Result, Settings, Variant, common};
use crate::config::Reader;
use crate::error::Error;

/// Where bits and turns are.
const KEY: &str = "loftq_config";

/// The base is quantised, which the base determines.
pub(super) struct Loftq;

impl Variant for Loftq {
    fn key(&self) -> &'static str {
        INIT
    }

    fn method(&self) -> &'static str {
        "loftq"
    }

    fn is_asked(&self, value: &Value, config: &Reader) -> bool {
        let named = value
            .as_str()
            .is_some_and(|name| name.eq_ignore_ascii_case("loftq"));
        // On its residual, the base has been quantised already, and the adapter is plain LoRA.
        named && !config.is_on_residual()
    }

    fn takes(&self, kind: LayerKind) -> bool {
        kind == LayerKind::Linear
    }

    fn read(&self, value: Value, _: &[LayerShape], settings: &mut Settings) -> Result<()> {
        let whole = |key: &str, default: u64| match &value[key] {
            Value::Null => Ok(default),
            found => found.as_u64().ok_or_else(|| {
                Error::config(KEY, format!("found `{key}` = {found}, expected a number"))
            }),
        };
        let (bits, iterations) = (whole("loftq_bits", 4)?, whole("loftq_iter", 1)?);
        if ![4, 8].contains(&bits) || iterations == 0 {
            return Err(Error::config(
                KEY,
                format!(
                    "found {bits} bits in {iterations} iterations, expected 4 or 8 bits and at least 1"
                ),
            ));
        }
        settings.config.insert("bits".to_owned(), bits.into());
        let iterations = iterations.into();
        settings.config.insert("iterations".to_owned(), iterations);
        Ok(())
    }

    fn write(&self, _: &[Configured]) -> Result<Value, String> {
        Ok("loftq".into())
    }

    fn settings(&self) -> Option<&'static str> {
        Some(KEY)
    }

    fn write_settings(&self, layers: &[Configured]) -> Result<Value, String> {
        let bits: usize = common(layers, "bits")?;
        let iterations: usize = common(layers, "iterations")?;
        let block: Option<usize> = common(layers, "block")?;
        if bits == 2 || block.is_some_and(|block| bits != 4 || block != 64) {
            return Err(format!(
                "PEFT's LoftQ has 4 bits in blocks of 64, and 8 bits with one scale an output; found {bits} bits{}",
                block.map_or(String::new(), |block| format!(" in blocks of {block}"))
            ));
        }
        Ok(json!({ "loftq_bits": bits, "loftq_iter": iterations }))
    }

    fn fields(&self, _: &Configured, lora: Vec<Field>) -> Result<Vec<Field>> {
        Ok(lora)
    }

    fn derived(&self) -> &'static [&'static str] {
        &["a0", "b0"]
    }
}
