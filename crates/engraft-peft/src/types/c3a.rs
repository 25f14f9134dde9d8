//! C3A.

use engraft_core::LayerShape;
use serde_json::Value;

use super::{Configured, PeftType, Settings, Written, common, size_patterns, sizes, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;
use crate::targets::first_below;

/// y = x (W + C(w) / d_in) + b with circulant blocks.
pub(super) struct C3a;

/// `init_weights` in PEFT and `init` here. PEFT reads false as Xavier's too.
const INITS: [(&str, &str); 3] = [
    ("xavier_uniform", "xavier-uniform"),
    ("kaiming_uniform", "kaiming-uniform"),
    ("gaussian", "gaussian"),
];

impl PeftType for C3a {
    fn name(&self) -> &'static str {
        "C3A"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["c3a"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules", "fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let size: usize = config.get("block_size", 256)?;
        let patterns = config.block_sizes()?;
        let init = match config.get("init_weights", Value::from("xavier_uniform"))? {
            Value::Bool(true) => "zeros",
            Value::Bool(false) => "xavier-uniform",
            other => INITS
                .into_iter()
                .find(|(peft, _)| other == *peft)
                .map(|(_, own)| own)
                .ok_or_else(|| {
                    let expected = INITS.map(|(peft, _)| peft).join(", ");
                    Error::config(
                        "init_weights",
                        format!("found {other}, expected a truth value or one of {expected}"),
                    )
                })?,
        };
        let names = ("block_size_pattern", "block-size");
        let overrides = sizes(layers, names, size, |path| {
            first_below("block_size_pattern", &patterns, path)
        })?;
        Ok(Settings {
            method: "c3a",
            config: table([("block-size", size.into()), ("init", init.into())]),
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (size, patterns) = size_patterns(layers, "block-size", str::to_owned, first_below)?;
        let init: String = common(layers, "init")?;
        let init = INITS
            .into_iter()
            .find(|(_, own)| init == *own)
            .map_or(Value::Bool(true), |(peft, _)| peft.into());
        let keys = table([
            ("block_size", size.into()),
            ("block_size_pattern", patterns),
            ("init_weights", init),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let size = layer.get::<usize>("block-size")?.max(1);
        let shape = [layer.layer.d_out / size, layer.layer.d_in / size, size];
        Ok(vec![Field::same("c3a_kernel", "kernel", &shape)])
    }
}
