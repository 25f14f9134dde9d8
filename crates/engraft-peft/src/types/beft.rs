//! BEFT.

use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Written, table};
use crate::config::Reader;
use crate::error::Result;
use crate::field::Field;

/// y = x W + b + v.
pub(super) struct Beft;

impl PeftType for Beft {
    fn name(&self) -> &'static str {
        "BEFT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["beft"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &[
            "bias",
            "exclude_modules",
            "fan_in_fan_out",
            "layers_pattern",
            "layers_to_transform",
        ]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        config.skip(&["init_weights"]);
        Ok(Settings {
            method: "beft",
            ..Settings::default()
        })
    }

    fn write(&self, _: &[Configured]) -> Result<Written, String> {
        Ok(Written {
            keys: table([("init_weights", true.into())]),
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let d_out = layer.layer.d_out;
        Ok(vec![Field::reshaped(
            "beft_bias",
            "v",
            &[1, d_out],
            &[d_out],
        )])
    }
}
