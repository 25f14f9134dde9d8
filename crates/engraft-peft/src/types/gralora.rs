//! GRALORA: GraLoRA and its hybrid.

use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::{Reader, number};
use crate::error::Result;
use crate::field::Field;

/// y = x W + b + s (x dW + x A' B'), dW of k x k blocks.
pub(super) struct Gralora;

impl PeftType for Gralora {
    fn name(&self) -> &'static str {
        "GRALORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["gralora"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let own = table([
            ("rank", config.get("r", 32_usize)?.into()),
            ("hybrid-rank", config.get("hybrid_r", 0_usize)?.into()),
            ("alpha", config.get("alpha", 64.0_f64)?.into()),
            ("blocks", config.get("gralora_k", 2_usize)?.into()),
            ("dropout", config.get("gralora_dropout", 0.0_f64)?.into()),
        ]);
        config.skip(&["init_weights"]);
        Ok(Settings {
            method: "gralora",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("hybrid_r", common::<usize>(layers, "hybrid-rank")?.into()),
            ("alpha", number(common(layers, "alpha")?)),
            ("gralora_k", common::<usize>(layers, "blocks")?.into()),
            ("gralora_dropout", common::<f64>(layers, "dropout")?.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out) = (layer.layer.d_in, layer.layer.d_out);
        let (rank, hybrid): (usize, usize) = (layer.get("rank")?, layer.get("hybrid-rank")?);
        let k = layer.get::<usize>("blocks")?;
        let mut fields = vec![
            Field::same("gralora_A", "a", &[k, d_in / k.max(1), rank]),
            Field::same("gralora_B", "b", &[k, rank, d_out / k.max(1)]),
        ];
        if hybrid > 0 {
            fields.extend([
                Field::transposed("gralora_A_general.weight", "general_a", [hybrid, d_in]),
                Field::transposed("gralora_B_general.weight", "general_b", [d_out, hybrid]),
            ]);
        }
        Ok(fields)
    }
}
