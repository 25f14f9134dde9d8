//! TINYLORA: TinyLoRA, whose projections may be left to a seed.

use burn::tensor::TensorData;
use engraft_core::{LayerKind, LayerShape};

use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::{Layout, MODEL, SHARED};
use crate::pair::Pair;
use crate::torch::Generator;

/// y = x W + b + x A R B, R = sum_i v_i P_i with v shared by tied layers.
pub(super) struct TinyLora;

/// All vectors, one below the other; PEFT has one tensor for each.
const VECTORS: &str = "tinylora_v";

impl PeftType for TinyLora {
    fn name(&self) -> &'static str {
        "TINYLORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["tinylora"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Embedding)
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 2)?;
        let length: usize = config.get("u", 64)?;
        let seed: u64 = config.get("projection_seed", 42)?;
        let mut grown = Tensors::new();
        if !config.get("save_projection", true)? {
            config.warn(format!("the projections are not in the file: drawn again from PyTorch's generator with seed {seed}"));
            for (index, layer) in layers.iter().enumerate() {
                let rank = rank.min(layer.max_rank());
                let mut generator = Generator::new(seed + index as u64);
                let values = generator.normal((rank as f64).sqrt().recip(), length * rank * rank);
                grown.insert(
                    format!("{MODEL}{}.tinylora_P", layer.path),
                    TensorData::new(values, [length, rank, rank]),
                );
            }
        }
        config.skip(&["init_weights", "init_v_bound"]);
        let own = table([
            ("rank", rank.into()),
            ("length", length.into()),
            ("tying", config.get("weight_tying", 0.0)?.into()),
            ("dropout", config.get("tinylora_dropout", 0.0)?.into()),
        ]);
        Ok(Settings {
            method: "tinylora",
            config: own,
            seed,
            grown,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("u", common::<usize>(layers, "length")?.into()),
            ("weight_tying", common::<f64>(layers, "tying")?.into()),
            ("tinylora_dropout", common::<f64>(layers, "dropout")?.into()),
            ("projection_seed", 42.into()),
            ("save_projection", true.into()),
            ("init_v_bound", 0.02.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn pairs(&self, layers: &[Configured], name: &str) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        let Some(first) = layers.first() else {
            return Ok(pairs);
        };
        let (rank, length): (usize, usize) = (first.get("rank")?, first.get("length")?);
        for layer in layers.iter().map(|configured| &configured.layer) {
            let rank = rank.min(layer.max_rank());
            // An embedding's weight is (vocabulary, width) on both sides.
            let (keys, shapes, layout) = match layer.kind {
                LayerKind::Embedding => (
                    ["tinylora_B", "tinylora_A"],
                    [[layer.d_in, rank], [rank, layer.d_out]],
                    Layout::Same,
                ),
                _ => (
                    ["tinylora_A", "tinylora_B"],
                    [[rank, layer.d_in], [layer.d_out, rank]],
                    Layout::Transposed,
                ),
            };
            for ((peft, own), shape) in keys.into_iter().zip(["a", "b"]).zip(shapes) {
                pairs.push(Pair::on_layer(
                    layer,
                    name,
                    [peft, own],
                    &shape,
                    layout.clone(),
                ));
            }
            let shape = [length, rank, rank];
            let layout = match layout {
                Layout::Transposed => Layout::Slices,
                other => other,
            };
            pairs.push(Pair::on_layer(
                layer,
                name,
                ["tinylora_P", "p"],
                &shape,
                layout,
            ));
        }
        let shape = [groups(layers).map_err(Error::Unsupported)?, length];
        let key = format!("{SHARED}{VECTORS}");
        pairs.push(Pair::trained(key, name, "v", &shape, Layout::Same));
        Ok(pairs)
    }

    fn unpack(
        &self,
        _: &[LayerShape],
        _: &mut Settings,
        tensors: &mut Tensors,
        _: &Tensors,
    ) -> Result<()> {
        let mut rows: Vec<Vec<f32>> = Vec::new();
        while let Some(row) = tensors.remove(&format!("{SHARED}{VECTORS}.{}", rows.len())) {
            rows.push(row.convert::<f32>().try_to_vec().expect("converted to f32"));
        }
        let length = rows.first().map_or(0, Vec::len);
        if let Some(odd) = rows.iter().position(|row| row.len() != length) {
            return Err(Error::Tensors(format!(
                "{SHARED}{VECTORS}.{odd} has {} values, expected {length}",
                rows[odd].len()
            )));
        }
        if !rows.is_empty() {
            let shape = [rows.len(), length];
            tensors.insert(
                format!("{SHARED}{VECTORS}"),
                TensorData::new(rows.concat(), shape),
            );
        }
        Ok(())
    }

    fn pack(&self, _: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        let Some(all) = tensors.remove(&format!("{SHARED}{VECTORS}")) else {
            return Ok(());
        };
        let length = all.shape()[1];
        let values: Vec<f32> = all.convert::<f32>().try_to_vec().expect("converted to f32");
        let rows = values.chunks_exact(length.max(1)).enumerate();
        tensors.extend(rows.map(|(group, row)| {
            let data = TensorData::new(row.to_vec(), [length]);
            (format!("{SHARED}{VECTORS}.{group}"), data)
        }));
        Ok(())
    }
}

/// How many vectors the layers have: max(1, round(n (1 - tying))), a tie rounded to the even one.
fn groups(layers: &[Configured]) -> Result<usize, String> {
    let tying: f64 = common(layers, "tying")?;
    let asked = (layers.len() as f64 * (1.0 - tying)).round_ties_even();
    Ok((asked as usize).max(1))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engraft_core::file::read_tensors;

    use super::*;

    #[test]
    fn projections_left_to_a_seed_are_drawn_as_pytorch_draws_them() {
        let one = [LayerShape::linear("fc1", 24, 16, true)];
        let mlp = [
            LayerShape::linear("fc1", 24, 40, true),
            LayerShape::linear("fc2", 40, 16, true),
        ];
        for (case, rank, length, layers) in [
            ("r2_u8_24x16", 2, 8, &one[..]),
            ("tied_mlp", 3, 5, &mlp[..]),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("vectors/cases/tinylora__{case}.safetensors"));
            let (stored, _) = read_tensors(&path).unwrap();
            let config = serde_json::json!({"r": rank, "u": length, "save_projection": false});
            let settings = TinyLora
                .read(&mut Reader::new(&config.try_into().unwrap()), layers)
                .unwrap();
            for (key, drawn) in settings.grown {
                let values = |data: &TensorData| -> Vec<f32> { data.try_to_vec().unwrap() };
                let (found, expected) =
                    (values(&drawn), values(&stored[&format!("adapter.{key}")]));
                // PyTorch's logarithm and sine are approximations of their own.
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        (found - expected).abs() < 1e-6,
                        "{case}: {found} {expected}"
                    );
                }
            }
        }
    }
}
