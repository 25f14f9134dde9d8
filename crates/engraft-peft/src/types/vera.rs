//! VERA: VeRA, whose shared projections may be left to a seed.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::Reader;
use crate::error::Result;
use crate::field::{Field, SHARED};
use crate::torch::Generator;

/// y = x W + b + ((x A) . d) B . b_scale with shared A and B.
pub(super) struct Vera;

impl PeftType for Vera {
    fn name(&self) -> &'static str {
        "VERA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["vera"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 256)?;
        let dropout: f64 = config.get("vera_dropout", 0.0)?;
        let d_initial: f64 = config.get("d_initial", 0.1)?;
        let seed: u64 = config.get("projection_prng_key", 0)?;
        let saved: bool = config.get("save_projection", true)?;
        config.skip(&["init_weights"]);
        let grown = match saved {
            true => BTreeMap::new(),
            false => projections(config, seed, "vera", [rank, rank], layers),
        };
        let own = table([
            ("rank", rank.into()),
            ("d-initial", d_initial.into()),
            ("dropout", dropout.into()),
        ]);
        Ok(Settings {
            method: "vera",
            config: own,
            seed,
            grown,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("vera_dropout", common::<f64>(layers, "dropout")?.into()),
            ("d_initial", common::<f64>(layers, "d-initial")?.into()),
            ("projection_prng_key", 0.into()),
            ("save_projection", true.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let rank = layer.get("rank")?;
        Ok(vec![
            Field::same("vera_lambda_b", "lambda_b", &[layer.layer.d_out]),
            Field::same("vera_lambda_d", "lambda_d", &[rank]),
        ])
    }

    fn shared(&self, layers: &[Configured]) -> Vec<Field> {
        let shapes: Vec<LayerShape> = layers.iter().map(|layer| layer.layer.clone()).collect();
        let (d_in, d_out) = largest(&shapes);
        let rank = layers
            .first()
            .and_then(|layer| layer.get("rank").ok())
            .unwrap_or(0);
        vec![
            Field::transposed("vera_A", "a", [rank, d_in]),
            Field::transposed("vera_B", "b", [d_out, rank]),
        ]
    }
}

/// The projections A, (rows, d_in), and B, (d_out, rank), that a file leaves to a seed.
pub(super) fn projections(
    config: &mut Reader,
    seed: u64,
    prefix: &str,
    [rows, rank]: [usize; 2],
    layers: &[LayerShape],
) -> Tensors {
    config.warn(format!(
        "the projections are not in the file: drawn again from PyTorch's generator with seed {seed}"
    ));
    let (d_in, d_out) = largest(layers);
    let mut generator = Generator::new(seed);
    [("A", rows, d_in), ("B", d_out, rank)]
        .into_iter()
        .map(|(key, rows, cols)| {
            let values = generator.kaiming_uniform(rows, cols);
            let key = format!("{SHARED}{prefix}_{key}");
            (key, TensorData::new(values, [rows, cols]))
        })
        .collect()
}

/// The largest input and output widths: the projections are cut to each layer.
pub(super) fn largest(layers: &[LayerShape]) -> (usize, usize) {
    let max = |width: fn(&LayerShape) -> usize| layers.iter().map(width).max().unwrap_or(0);
    (max(|layer| layer.d_in), max(|layer| layer.d_out))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engraft_core::file::read_tensors;

    use super::*;

    #[test]
    fn projections_left_to_a_seed_are_drawn_as_pytorch_draws_them() {
        let case = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("vectors/cases/vera__not_saved_projection.safetensors");
        let (stored, _) = read_tensors(&case).unwrap();
        let config = serde_json::json!({"peft_type": "VERA", "r": 8, "projection_prng_key": 7, "save_projection": false});
        let layers = [LayerShape::linear("fc1", 24, 16, true)];
        let settings = Vera
            .read(&mut Reader::new(&config.try_into().unwrap()), &layers)
            .unwrap();
        for key in ["vera_A", "vera_B"] {
            assert_eq!(
                settings.grown[&format!("base_model.{key}")],
                stored[&format!("aux.base_model.model.fc1.{key}")],
                "{key}"
            );
        }
    }
}
