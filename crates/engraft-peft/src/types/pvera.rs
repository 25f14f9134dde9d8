//! PVERA: PVeRA, whose shared projections may be left to a seed.

use engraft_core::LayerShape;

use super::vera::{largest, projections};
use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// y = x W + b + (z B) . b_scale, z the mean of a learned distribution.
pub(super) struct Pvera;

impl PeftType for Pvera {
    fn name(&self) -> &'static str {
        "PVERA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["pvera"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 256)?;
        let seed: u64 = config.get("projection_prng_key", 0)?;
        if config.get("sample_at_inference", false)? {
            return Err(Error::Unsupported(
                "`sample_at_inference` = true: evaluation is deterministic here; set it to false for the learned mean".to_owned(),
            ));
        }
        let grown = match config.get("save_projection", true)? {
            true => Default::default(),
            false => projections(config, seed, "pvera", [2 * rank, rank], layers),
        };
        // The seed is that of the samples in training.
        config.skip(&["init_weights", "generator_seed"]);
        let own = table([
            ("rank", rank.into()),
            ("d-initial", config.get("d_initial", 0.1)?.into()),
            ("dropout", config.get("pvera_dropout", 0.0)?.into()),
        ]);
        Ok(Settings {
            method: "pvera",
            config: own,
            seed,
            grown,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("pvera_dropout", common::<f64>(layers, "dropout")?.into()),
            ("d_initial", common::<f64>(layers, "d-initial")?.into()),
            ("projection_prng_key", 0.into()),
            ("save_projection", true.into()),
            ("init_weights", true.into()),
            ("sample_at_inference", false.into()),
            ("generator_seed", serde_json::Value::Null),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let rank: usize = layer.get("rank")?;
        Ok(vec![
            Field::same("pvera_lambda_b", "lambda_b", &[layer.layer.d_out]),
            Field::same("pvera_lambda_d", "lambda_d", &[2 * rank]),
        ])
    }

    fn shared(&self, layers: &[Configured]) -> Vec<Field> {
        let shapes: Vec<LayerShape> = layers.iter().map(|layer| layer.layer.clone()).collect();
        let (d_in, d_out) = largest(&shapes);
        let rank: usize = layers
            .first()
            .and_then(|layer| layer.get("rank").ok())
            .unwrap_or(0);
        vec![
            Field::transposed("pvera_A", "a", [2 * rank, d_in]),
            Field::transposed("pvera_B", "b", [d_out, rank]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engraft_core::file::read_tensors;

    use super::*;

    #[test]
    fn projections_left_to_a_seed_are_drawn_as_pytorch_draws_them() {
        let case = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("vectors/cases/pvera__mlp_shared.safetensors");
        let (stored, _) = read_tensors(&case).unwrap();
        let config = serde_json::json!({"peft_type": "PVERA", "r": 6, "save_projection": false});
        let layers = [
            LayerShape::linear("fc1", 24, 40, true),
            LayerShape::linear("fc2", 40, 16, true),
        ];
        let settings = Pvera
            .read(&mut Reader::new(&config.try_into().unwrap()), &layers)
            .unwrap();
        for key in ["base_model.pvera_A", "base_model.pvera_B"] {
            assert_eq!(
                settings.grown[key],
                stored[&format!("adapter.{key}")],
                "{key}"
            );
        }
    }
}
