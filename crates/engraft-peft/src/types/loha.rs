//! LOHA: LoHa.

use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Written, patterns, ranks, table};
use crate::config::{Reader, number};
use crate::error::Result;
use crate::field::Field;

/// y = x W + b + s x ((A1 B1) . (A2 B2)).
pub(super) struct Loha;

impl PeftType for Loha {
    fn name(&self) -> &'static str {
        "LOHA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["loha"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias", "fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        let alpha: f64 = config.get("alpha", 8.0)?;
        let overrides = ranks(config, layers, rank, alpha)?;
        for key in ["rank_dropout", "module_dropout"] {
            config.training_only(key)?;
        }
        // Linear layers have no kernel to decompose.
        config.skip(&["init_weights", "use_effective_conv2d"]);
        Ok(Settings {
            method: "loha",
            config: table([("rank", rank.into()), ("alpha", alpha.into())]),
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (rank, alpha, rank_pattern, alpha_pattern) = patterns(layers)?;
        let keys = table([
            ("r", rank.into()),
            ("alpha", number(alpha)),
            ("init_weights", true.into()),
            ("rank_dropout", 0.0.into()),
            ("module_dropout", 0.0.into()),
            ("use_effective_conv2d", false.into()),
        ]);
        Ok(Written {
            keys,
            rank_pattern,
            alpha_pattern,
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, layer.get("rank")?);
        // A product w_a w_b (out, r) (r, in) there is its transpose a b here.
        Ok(vec![
            Field::transposed("hada_w1_a", "w1.b", [d_out, rank]),
            Field::transposed("hada_w1_b", "w1.a", [rank, d_in]),
            Field::transposed("hada_w2_a", "w2.b", [d_out, rank]),
            Field::transposed("hada_w2_b", "w2.a", [rank, d_in]),
        ])
    }
}
