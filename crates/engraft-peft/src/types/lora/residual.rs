//! Inits that look at the base: MiCA, and those that leave a residual of it in its place.

use engraft_core::{LayerKind, LayerShape};
use serde_json::Value;

use super::{Configured, Field, INIT, Result, Settings, Variant};
use crate::config::Reader;
use crate::error::Error;

/// An init that is a method of its own.
pub(super) struct Init {
    name: &'static str,
    derived: &'static [&'static str],
}

/// B is frozen; the base stays.
pub(super) static MICA: Init = Init {
    name: "mica",
    derived: &[],
};
/// The base loses its leading singular triples, which the base determines.
pub(super) static PISSA: Init = Init {
    name: "pissa",
    derived: &["a0", "b0"],
};
/// The base loses the leading part of its QR decomposition, which the base determines.
pub(super) static OLORA: Init = Init {
    name: "olora",
    derived: &["a0", "b0"],
};

impl Variant for Init {
    fn key(&self) -> &'static str {
        INIT
    }

    fn method(&self) -> &'static str {
        self.name
    }

    fn is_asked(&self, value: &Value, config: &Reader) -> bool {
        let named = value
            .as_str()
            .is_some_and(|name| name.eq_ignore_ascii_case(self.name));
        // On its residual, the base has been changed already, and the adapter is plain LoRA.
        named && (self.derived.is_empty() || !config.is_on_residual())
    }

    fn takes(&self, kind: LayerKind) -> bool {
        // PEFT leaves an embedding as it is where the others of the same adapter get a residual.
        kind == LayerKind::Linear || (kind == LayerKind::Embedding && self.derived.is_empty())
    }

    fn read(&self, _: Value, _: &[LayerShape], _: &mut Settings) -> Result<()> {
        Ok(())
    }

    fn write(&self, layers: &[Configured]) -> Result<Value, String> {
        // Only PiSSA has a number of power iterations; 0 is the exact decomposition.
        let drawn = |layer: &Configured| layer.value::<usize>("niter").is_ok_and(|niter| niter > 0);
        if layers.iter().any(drawn) {
            return Err("PEFT draws its randomised SVD again when it reads the file, and would leave another residual; write it as LoRA of twice the rank (`Pissa::to_lora`)".to_owned());
        }
        Ok(self.name.into())
    }

    fn fields(&self, _: &Configured, lora: Vec<Field>) -> Result<Vec<Field>> {
        Ok(lora)
    }

    fn derived(&self) -> &'static [&'static str] {
        self.derived
    }
}

/// Refuses inits whose change of the base cannot be made again, unless it has been made.
pub(super) fn judge(init: &Value, config: &Reader) -> Result<()> {
    let name = match init {
        Value::Null | Value::Bool(_) => return Ok(()),
        Value::String(name) => name.to_lowercase(),
        other => {
            return Err(Error::config(
                INIT,
                format!("found {other}, expected a truth value or a name"),
            ));
        }
    };
    let reason = match name.as_str() {
        // A finished adapter does not depend on how it started.
        "gaussian" | "orthogonal" | "eva" => return Ok(()),
        "pissa" | "olora" | "loftq" | "corda" | "lora_ga" if config.is_on_residual() => {
            return Ok(());
        }
        name if name.starts_with("pissa_niter_") => match config.is_on_residual() {
            true => return Ok(()),
            false => "its randomised SVD draws from PyTorch's global generator",
        },
        "corda" => "it depends on the calibration data",
        "lora_ga" => "it depends on the gradients of the calibration data",
        "mica" | "pissa" | "olora" | "loftq" => {
            return Err(Error::Unsupported(format!(
                "`{INIT}` = \"{name}\" together with another variant is not supported"
            )));
        }
        _ => {
            return Err(Error::config(
                INIT,
                format!(
                    "found `{name}`, expected true, false, gaussian, orthogonal, olora, pissa, pissa_niter_N, corda, eva, loftq, lora_ga or mica"
                ),
            ));
        }
    };
    Err(Error::Unsupported(format!(
        "`{INIT}` = \"{name}\": the base that this adapter was trained on is not in the file, and the original base does not determine it: {reason}; let PEFT write it with `path_initial_model_for_weight_conversion`, or give the residual as the base (`PeftAdapter::on_residual`)"
    )))
}
