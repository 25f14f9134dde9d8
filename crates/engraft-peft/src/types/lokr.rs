//! LOKR: LoKr.

use engraft_core::{LayerKind, LayerShape};
use serde_json::Value;

use super::{Configured, PeftType, Settings, Written, common, patterns, ranks, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::Field;

/// y = x W + b + s x (w1 (x) w2).
pub(super) struct Lokr;

impl PeftType for Lokr {
    fn name(&self) -> &'static str {
        "LOKR"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["lokr"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias", "fan_in_fan_out"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Conv2d { .. })
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        let alpha: f64 = config.get("alpha", 8.0)?;
        let factor: i64 = config.get("decompose_factor", -1)?;
        let both: bool = config.get("decompose_both", false)?;
        let overrides = ranks(config, layers, rank, alpha)?;
        for key in ["rank_dropout", "module_dropout", "rank_dropout_scale"] {
            config.training_only(key)?;
        }
        let init = match config.find::<Value>("init_weights")? {
            None | Some(Value::Bool(_)) => "zero-w1",
            Some(Value::String(init)) if init == "lycoris" => "zero-w2",
            Some(other) => {
                return Err(Error::config(
                    "init_weights",
                    format!("found {other}, expected a truth value or \"lycoris\""),
                ));
            }
        };
        let effective: bool = config.get("use_effective_conv2d", false)?;
        let own = table([
            ("rank", rank.into()),
            ("alpha", alpha.into()),
            ("factor", factor.into()),
            ("decompose-both", both.into()),
            ("init", init.into()),
            ("effective-conv2d", effective.into()),
        ]);
        Ok(Settings {
            method: "lokr",
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (rank, alpha, rank_pattern, alpha_pattern) = patterns(layers)?;
        let lycoris = common::<String>(layers, "init")? == "zero-w2";
        let keys = table([
            ("r", rank.into()),
            ("alpha", number(alpha)),
            ("decompose_factor", common::<i64>(layers, "factor")?.into()),
            (
                "decompose_both",
                common::<bool>(layers, "decompose-both")?.into(),
            ),
            (
                "init_weights",
                if lycoris {
                    "lycoris".into()
                } else {
                    true.into()
                },
            ),
            ("rank_dropout", 0.0.into()),
            ("module_dropout", 0.0.into()),
            ("rank_dropout_scale", false.into()),
            (
                "use_effective_conv2d",
                common::<bool>(layers, "effective-conv2d")?.into(),
            ),
        ]);
        Ok(Written {
            keys,
            rank_pattern,
            alpha_pattern,
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (rank, factor): (usize, i64) = (layer.get("rank")?, layer.get("factor")?);
        // The pixels of a kernel all go to w2.
        let (kernel, pixels) = match layer.layer.kind {
            LayerKind::Conv2d { kernel } => (kernel.to_vec(), kernel[0] * kernel[1]),
            _ => (Vec::new(), 1),
        };
        let (in1, in2) = factorisation(layer.layer.d_in / pixels, factor);
        let (out1, out2) = factorisation(layer.layer.d_out, factor);
        let product = |out: usize, input: usize| 2 * rank < out.max(input);
        let mut fields = Vec::new();
        // A product w_a w_b (out, r) (r, in) there is its transpose a b here.
        if layer.get("decompose-both")? && product(out1, in1) {
            fields.extend([
                Field::transposed("lokr_w1_b", "w1.a", [rank, in1]),
                Field::transposed("lokr_w1_a", "w1.b", [out1, rank]),
            ]);
        } else {
            fields.push(Field::transposed("lokr_w1", "w1.a", [out1, in1]));
        }
        let with_kernel = |sides: [usize; 2]| [&sides[..], &kernel].concat();
        if !product(out2, in2) {
            fields.push(Field::transposed(
                "lokr_w2",
                "w2.a",
                with_kernel([out2, in2]),
            ));
        } else if layer.get("effective-conv2d")? && pixels > 1 {
            fields.extend([
                Field::transposed("lokr_w2_b", "w2.a", [rank, in2]),
                Field::same("lokr_w2_a", "w2.b", &[rank, out2]),
                Field::same("lokr_t2", "w2.t", &with_kernel([rank, rank])),
            ]);
        } else {
            fields.extend([
                Field::transposed("lokr_w2_b", "w2.a", [rank, in2 * pixels]),
                Field::transposed("lokr_w2_a", "w2.b", [out2, rank]),
            ]);
        }
        Ok(fields)
    }
}

/// The split of a width: `factor` and the rest where it divides; else the divisor nearest below
/// the square root that `factor` allows (-1 allows all).
fn factorisation(width: usize, factor: i64) -> (usize, usize) {
    let bound = usize::try_from(factor)
        .ok()
        .filter(|factor| *factor > 0)
        .unwrap_or(width);
    if factor > 0 && width.is_multiple_of(bound) {
        return (bound, width / bound);
    }
    let first = (1..=bound.min(width.isqrt()))
        .rev()
        .find(|first| width.is_multiple_of(*first))
        .unwrap_or(1);
    (first, width / first)
}
