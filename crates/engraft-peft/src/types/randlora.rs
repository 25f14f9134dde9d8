//! RANDLORA: RandLoRA, whose shared bases may be left to a seed.

use burn::tensor::TensorData;
use engraft_core::LayerShape;
use serde_json::Value;

use super::vera::largest;
use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::{Field, MODEL, SHARED};
use crate::torch::Generator;
use crate::torch_draws::{bf16, std};

/// y = x W + b + s x sum_i B_i diag(lambda_i) A diag(gamma_i).
pub(super) struct RandLora;

/// The shared bases, which PEFT's files repeat on every layer.
const BASES: [&str; 2] = ["randlora_A", "randlora_B"];

impl PeftType for RandLora {
    fn name(&self) -> &'static str {
        "RANDLORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["randlora"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 32)?;
        let seed: u64 = config.get("projection_prng_key", 0)?;
        let (sparse, very_sparse): (bool, bool) = (
            config.get("sparse", false)?,
            config.get("very_sparse", false)?,
        );
        let basis = match (sparse, very_sparse) {
            (_, true) => "very-sparse",
            (true, false) => "sparse",
            (false, false) => "dense",
        };
        let grown = match config.get("save_projection", true)? {
            true => Tensors::new(),
            false => {
                config.warn(format!("the bases are not in the file: drawn again from PyTorch's generator with seed {seed}"));
                bases(basis, seed, rank, layers)
            }
        };
        config.skip(&["init_weights"]);
        let own = table([
            ("rank", rank.into()),
            ("alpha", config.get("randlora_alpha", 640.0)?.into()),
            ("dropout", config.get("randlora_dropout", 0.0)?.into()),
            ("basis", basis.into()),
        ]);
        Ok(Settings {
            method: "randlora",
            config: own,
            seed,
            grown,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let basis: String = common(layers, "basis")?;
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("randlora_alpha", number(common::<f64>(layers, "alpha")?)),
            ("randlora_dropout", common::<f64>(layers, "dropout")?.into()),
            ("sparse", (basis == "sparse").into()),
            ("very_sparse", (basis == "very-sparse").into()),
            ("projection_prng_key", 0.into()),
            ("save_projection", true.into()),
            ("init_weights", Value::Bool(true)),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let rank: usize = layer.get("rank")?;
        let narrow = layer.layer.max_rank();
        let count = narrow.div_ceil(rank.max(1));
        Ok(vec![
            Field::same("randlora_lambda", "lambda", &[rank, count]),
            Field::same("randlora_gamma", "gamma", &[count, narrow]),
        ])
    }

    fn shared(&self, layers: &[Configured]) -> Vec<Field> {
        let shapes: Vec<LayerShape> = layers.iter().map(|layer| layer.layer.clone()).collect();
        let rank = layers
            .first()
            .and_then(|layer| layer.get("rank").ok())
            .unwrap_or(1);
        let Sizes {
            narrow,
            wide,
            count,
        } = Sizes::of(&shapes, rank);
        vec![
            Field::reshaped("randlora_A", "a", &[rank, 1, narrow], &[rank, narrow]),
            Field::reshaped(
                "randlora_B",
                "b",
                &[wide, count, rank],
                &[wide, count * rank],
            ),
        ]
    }

    fn unpack(
        &self,
        layers: &[LayerShape],
        _: &mut Settings,
        tensors: &mut Tensors,
        _: &Tensors,
    ) -> Result<()> {
        for base in BASES {
            let shared = format!("{SHARED}{base}");
            for layer in layers {
                let key = format!("{MODEL}{}.{base}", layer.path);
                if let Some(copy) = tensors.remove(&key)
                    && tensors.get(&shared).is_some_and(|shared| *shared != copy)
                {
                    return Err(Error::Tensors(format!("{key} differs from {shared}")));
                }
            }
        }
        Ok(())
    }

    fn pack(&self, layers: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        for base in BASES {
            if let Some(shared) = tensors.get(&format!("{SHARED}{base}")).cloned() {
                let key = |layer: &Configured| format!("{MODEL}{}.{base}", layer.layer.path);
                tensors.extend(layers.iter().map(|layer| (key(layer), shared.clone())));
            }
        }
        Ok(())
    }
}

/// The sizes of the shared bases.
struct Sizes {
    narrow: usize,
    wide: usize,
    count: usize,
}

impl Sizes {
    fn of(layers: &[LayerShape], rank: usize) -> Self {
        let (d_in, d_out) = largest(layers);
        let narrow = d_in.min(d_out);
        Self {
            narrow,
            wide: d_in.max(d_out),
            count: narrow.div_ceil(rank.max(1)),
        }
    }
}

/// The bases as PEFT draws them: dense ones in bfloat16, all divided by their standard deviation.
fn bases(basis: &str, seed: u64, rank: usize, layers: &[LayerShape]) -> Tensors {
    let Sizes {
        narrow,
        wide,
        count,
    } = Sizes::of(layers, rank);
    let mut generator = Generator::new(seed);
    let mut signs = |count: usize, sparsity: f64| -> Vec<f32> {
        let low = (1.0 / (2.0 * sparsity)) as f32;
        let high = (1.0 - 1.0 / (2.0 * sparsity)) as f32;
        let sign = |draw: f32| match draw {
            draw if draw < low => -1.0,
            draw if draw > high => 1.0,
            _ => 0.0,
        };
        let drawn: Vec<f32> = generator.rand(count).into_iter().map(sign).collect();
        let std = std(&drawn) as f32;
        drawn.into_iter().map(|value| value / std).collect()
    };
    let (a, b) = match basis {
        "sparse" => (signs(rank * narrow, 3.0), signs(wide * count * rank, 3.0)),
        "very-sparse" => {
            let sparsity = (narrow as f64).sqrt();
            (
                signs(rank * narrow, sparsity),
                signs(wide * count * rank, sparsity),
            )
        }
        _ => {
            // PyTorch's fan of a (rows, 1, cols) tensor is cols.
            let mut kaiming = |rows: usize, cols: usize| {
                generator.uniform_bf16((cols as f64).sqrt().recip(), rows * cols)
            };
            let a = kaiming(rank, narrow);
            let parts: Vec<Vec<f32>> = (0..count).map(|_| kaiming(wide, rank)).collect();
            let rows = (0..wide).flat_map(|row| {
                parts
                    .iter()
                    .flat_map(move |part| part[row * rank..(row + 1) * rank].iter().copied())
            });
            (normalized(a), normalized(rows.collect()))
        }
    };
    Tensors::from([
        (
            format!("{SHARED}randlora_A"),
            TensorData::new(a, [rank, 1, narrow]),
        ),
        (
            format!("{SHARED}randlora_B"),
            TensorData::new(b, [wide, count, rank]),
        ),
    ])
}

/// Values of bfloat16 over their standard deviation, both rounded to bfloat16.
fn normalized(values: Vec<f32>) -> Vec<f32> {
    let std = bf16(std(&values) as f32);
    values.into_iter().map(|value| bf16(value / std)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engraft_core::file::read_tensors;

    use super::*;

    #[test]
    fn bases_left_to_a_seed_are_drawn_as_pytorch_draws_them() {
        let fc1 = |d_in, d_out| LayerShape::linear("fc1", d_in, d_out, true);
        let mlp = [fc1(24, 40), LayerShape::linear("fc2", 40, 16, true)];
        for (case, basis, rank, layers) in [
            ("r4_24x16", "dense", 4, &[fc1(24, 16)][..]),
            ("r5_mlp", "dense", 5, &mlp[..]),
            ("sparse_32x24", "sparse", 4, &[fc1(32, 24)][..]),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("vectors/cases/randlora__{case}.safetensors"));
            let (stored, _) = read_tensors(&path).unwrap();
            for (key, drawn) in bases(basis, 0, rank, layers) {
                assert_eq!(drawn, stored[&format!("adapter.{key}")], "{case}: {key}");
            }
        }
    }
}
