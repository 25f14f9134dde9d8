//! UNILORA: Uni-LoRA, whose entries of theta may be left to a seed.

use burn::tensor::TensorData;
use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::{Layout, MODEL, SHARED};
use crate::numpy::DefaultRng;
use crate::pair::Pair;

/// y = x W + b + x A B with A and B read from one vector theta.
pub(super) struct UniLora;

const INDICES: [&str; 2] = ["unilora_indices_A", "unilora_indices_B"];
const SCALES: [&str; 2] = ["unilora_scales_A", "unilora_scales_B"];
/// One scale for each entry of theta, in the place of one for each parameter.
const NORM: &str = "unilora_norm";

impl PeftType for UniLora {
    fn name(&self) -> &'static str {
        "UNILORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["unilora"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 4)?;
        let length: usize = config.get("theta_d_length", 256)?;
        let seed: u64 = config.get("proj_seed", 42)?;
        let saved: bool = config.get("save_indices", false)?;
        config.skip(&["init_weights"]);
        if length == 0 {
            return Err(Error::config("theta_d_length", "found 0, expected above 0"));
        }
        let grown = match saved {
            true => Tensors::new(),
            false => assigned(rank, length, seed, layers),
        };
        let own = table([
            ("rank", rank.into()),
            ("length", length.into()),
            ("bound", config.get("init_theta_d_bound", 0.02)?.into()),
            ("dropout", config.get("unilora_dropout", 0.0)?.into()),
        ]);
        Ok(Settings {
            method: "unilora",
            config: own,
            seed,
            grown,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("theta_d_length", common::<usize>(layers, "length")?.into()),
            ("unilora_dropout", common::<f64>(layers, "dropout")?.into()),
            ("init_theta_d_bound", common::<f64>(layers, "bound")?.into()),
            ("proj_seed", 42.into()),
            ("save_indices", true.into()),
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
            for (keys, shape) in [
                ([INDICES[0], "indices_a"], vec![rank, layer.d_in]),
                ([INDICES[1], "indices_b"], vec![layer.d_out, rank]),
                ([NORM, "norm"], vec![length]),
            ] {
                pairs.push(Pair::on_layer(layer, name, keys, &shape, Layout::Same));
            }
        }
        let key = format!("{SHARED}unilora_theta_d");
        let layout = Layout::Reshaped(vec![1, length]);
        pairs.push(Pair::trained(key, name, "theta", &[length], layout));
        Ok(pairs)
    }

    fn unpack(
        &self,
        layers: &[LayerShape],
        settings: &mut Settings,
        tensors: &mut Tensors,
        _: &Tensors,
    ) -> Result<()> {
        let length = settings.config["length"].as_u64().unwrap_or(0) as usize;
        let mut norm = vec![None; length];
        for layer in layers {
            for (indices, scales) in INDICES.into_iter().zip(SCALES) {
                let key = |name| format!("{MODEL}{}.{name}", layer.path);
                let (indices, scales) = (key(indices), key(scales));
                let missing = |key: &String| Error::Tensors(format!("{key} is missing"));
                let entries = integers(tensors.get(&indices).ok_or_else(|| missing(&indices))?);
                let scale: Vec<f32> = tensors
                    .remove(&scales)
                    .ok_or_else(|| missing(&scales))?
                    .convert::<f32>()
                    .try_to_vec()
                    .expect("converted to f32");
                if entries.len() != scale.len() {
                    return Err(Error::Tensors(format!(
                        "{indices} and {scales} differ in shape"
                    )));
                }
                for (entry, scale) in entries.into_iter().zip(scale) {
                    let place = usize::try_from(entry)
                        .ok()
                        .and_then(|place| norm.get_mut(place));
                    let known = place.ok_or_else(|| {
                        Error::Tensors(format!(
                            "{indices}: theta has no entry {entry}, only {length}"
                        ))
                    })?;
                    if *known.get_or_insert(scale) != scale {
                        return Err(Error::Tensors(format!(
                            "{scales}: entry {entry} of theta has two scales"
                        )));
                    }
                }
            }
        }
        let norm: Vec<f32> = norm.into_iter().map(Option::unwrap_or_default).collect();
        for layer in layers {
            let data = TensorData::new(norm.clone(), [length]);
            tensors.insert(format!("{MODEL}{}.{NORM}", layer.path), data);
        }
        Ok(())
    }

    fn pack(&self, layers: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        for layer in layers {
            let key = |name| format!("{MODEL}{}.{name}", layer.layer.path);
            let Some(norm) = tensors.remove(&key(NORM)) else {
                continue;
            };
            let norm: Vec<f32> = norm
                .convert::<f32>()
                .try_to_vec()
                .expect("converted to f32");
            for (indices, scales) in INDICES.into_iter().zip(SCALES) {
                if let Some(indices) = tensors.get(&key(indices)) {
                    let values = integers(indices)
                        .into_iter()
                        .map(|entry| norm[entry as usize])
                        .collect::<Vec<f32>>();
                    let data = TensorData::new(values, indices.shape().clone());
                    tensors.insert(key(scales), data);
                }
            }
        }
        Ok(())
    }
}

fn integers(data: &TensorData) -> Vec<i64> {
    data.clone()
        .convert::<i64>()
        .try_to_vec()
        .expect("converted to i64")
}

/// Entries and scales of all layers as PEFT assigns them: each entry occurs as often as any other
/// or once more, shuffled by NumPy's generator.
fn assigned(rank: usize, length: usize, seed: u64, layers: &[LayerShape]) -> Tensors {
    let widths: usize = layers.iter().map(|layer| layer.d_in + layer.d_out).sum();
    let places = rank * widths;
    let mut rng = DefaultRng::new(seed);
    let (each, more) = (places / length, places % length);
    let mut entries: Vec<i64> = (0..length as i64)
        .flat_map(|entry| std::iter::repeat_n(entry, each))
        .collect();
    let extras = rng.choice(length, more);
    entries.extend(&extras);
    rng.shuffle(&mut entries);
    let mut uses = vec![each; length];
    extras.iter().for_each(|entry| uses[*entry as usize] += 1);

    let mut tensors = Tensors::new();
    let mut rest = entries.as_slice();
    for layer in layers {
        for (place, shape) in [[rank, layer.d_in], [layer.d_out, rank]]
            .into_iter()
            .enumerate()
        {
            let (taken, left) = rest.split_at(shape[0] * shape[1]);
            rest = left;
            let scale = |entry: &i64| 1.0 / (uses[*entry as usize] as f32).sqrt();
            let key = |name| format!("{MODEL}{}.{name}", layer.path);
            tensors.insert(
                key(SCALES[place]),
                TensorData::new(taken.iter().map(scale).collect::<Vec<f32>>(), shape),
            );
            tensors.insert(key(INDICES[place]), TensorData::new(taken.to_vec(), shape));
        }
    }
    tensors
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engraft_core::file::read_tensors;

    use super::*;

    #[test]
    fn entries_left_to_a_seed_are_assigned_as_peft_assigns_them() {
        let mlp = [
            LayerShape::linear("fc1", 24, 40, true),
            LayerShape::linear("fc2", 40, 16, true),
        ];
        let one = [LayerShape::linear("fc1", 24, 16, true)];
        for (case, prefix, length, layers) in [
            ("24x16", "aux.", 40, &one[..]),
            ("mlp_saved_indices", "adapter.", 64, &mlp[..]),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("vectors/cases/unilora__{case}.safetensors"));
            let (stored, _) = read_tensors(&path).unwrap();
            for (key, data) in assigned(4, length, 42, layers) {
                assert_eq!(data, stored[&format!("{prefix}{key}")], "{case}: {key}");
            }
        }
    }
}
