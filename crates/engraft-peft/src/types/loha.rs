//! LOHA: LoHa.

use engraft_core::{LayerKind, LayerShape};

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

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Conv2d { .. })
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        let alpha: f64 = config.get("alpha", 8.0)?;
        let mut overrides = ranks(config, layers, rank, alpha)?;
        if config.get("use_effective_conv2d", false)? {
            for layer in layers.iter().filter(|layer| layer.kind.pixels() > 1) {
                overrides
                    .entry(layer.path.clone())
                    .or_default()
                    .insert("kernel".to_owned(), layer.kind.pixels().into());
            }
        }
        for key in ["rank_dropout", "module_dropout"] {
            config.training_only(key)?;
        }
        config.skip(&["init_weights"]);
        let own = table([
            ("rank", rank.into()),
            ("alpha", alpha.into()),
            ("kernel", 1.into()),
        ]);
        Ok(Settings {
            method: "loha",
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (rank, alpha, rank_pattern, alpha_pattern) = patterns(layers)?;
        let effective = effective(layers)?;
        let keys = table([
            ("r", rank.into()),
            ("alpha", number(alpha)),
            ("init_weights", true.into()),
            ("rank_dropout", 0.0.into()),
            ("module_dropout", 0.0.into()),
            ("use_effective_conv2d", effective.into()),
        ]);
        Ok(Written {
            keys,
            rank_pattern,
            alpha_pattern,
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, layer.get("rank")?);
        let pixels: usize = layer.get("kernel")?;
        if let (LayerKind::Conv2d { kernel }, 2..) = (layer.layer.kind, pixels) {
            let core = [rank, rank, kernel[0], kernel[1]];
            let here = [rank, rank, pixels];
            return Ok(vec![
                Field::reshaped("hada_t1", "w1.core", &core, &here),
                Field::same("hada_w1_a", "w1.b", &[rank, d_out]),
                Field::transposed("hada_w1_b", "w1.a", [rank, d_in / pixels]),
                Field::reshaped("hada_t2", "w2.core", &core, &here),
                Field::same("hada_w2_a", "w2.b", &[rank, d_out]),
                Field::transposed("hada_w2_b", "w2.a", [rank, d_in / pixels]),
            ]);
        }
        // A product w_a w_b (out, r) (r, in) there is its transpose a b here.
        Ok(vec![
            Field::transposed("hada_w1_a", "w1.b", [d_out, rank]),
            Field::transposed("hada_w1_b", "w1.a", [rank, d_in]),
            Field::transposed("hada_w2_a", "w2.b", [d_out, rank]),
            Field::transposed("hada_w2_b", "w2.a", [rank, d_in]),
        ])
    }
}

/// Whether the layers are in the Tucker form: in PEFT, all convolutions larger than 1 x 1 or none.
fn effective(layers: &[Configured]) -> Result<bool, String> {
    let mut forms = Vec::new();
    for layer in layers {
        let (kernel, pixels) = (layer.value::<usize>("kernel")?, layer.layer.kind.pixels());
        if kernel != 1 && kernel != pixels {
            return Err(format!(
                "`kernel` is {kernel} at {}, whose kernel has {pixels} positions",
                layer.layer.path
            ));
        }
        if pixels > 1 {
            forms.push(kernel > 1);
        }
    }
    let effective = forms.contains(&true);
    if effective && forms.contains(&false) {
        return Err("`kernel` is 1 at some convolutions, and PEFT has one form for all".to_owned());
    }
    Ok(effective)
}
