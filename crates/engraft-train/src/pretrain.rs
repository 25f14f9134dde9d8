//! The digits ViT: pre-training of the model that ships with Engraft.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::{Ctx, Mode, file};
use engraft_data::{Digits, Domain, Examples, Split};
use engraft_models::{Vit, digits_vit_config};
use engraft_tensor::Key;
use rand::RngExt;
use serde::Serialize;

use crate::adamw::AdamW;
use crate::batcher::{Batcher, Labelled};
use crate::error::Result;
use crate::loss::cross_entropy;
use crate::metrics::accuracy;
use crate::optimizer::OptimizerConfig;
use crate::schedule::Decay;
use crate::train_config::TrainConfig;
use crate::trainer::Trainer;

/// Updates behind the weights that ship with Engraft.
pub const DIGITS_VIT_STEPS: u64 = 3000;

const BATCH: usize = 64;

/// A pre-trained model and where it comes from.
#[derive(Debug)]
pub struct Pretrained {
    /// The model, in validation mode.
    pub model: Vit,
    /// How it was made, and how good it is.
    pub provenance: Provenance,
}

/// How a pre-trained model was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Provenance {
    /// Name of the model.
    pub model: &'static str,
    /// Seed of initial values, batches and shifts.
    pub seed: u64,
    /// Updates.
    pub steps: u64,
    /// SHA-256 of the data set.
    pub data: String,
    /// Accuracy on the upright test images.
    pub test_accuracy: f64,
}

impl Pretrained {
    /// Writes the weights with their provenance as safetensors.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        // One entry only: a map of several would be written in an order of its own each time.
        let provenance = serde_json::to_string(&self.provenance).expect("plain data");
        Ok(file::save_module(
            &self.model,
            path,
            HashMap::from([("provenance".to_owned(), provenance)]),
        )?)
    }
}

/// Trains a fresh digits ViT on the upright images of the pre-training split, each batch moved by
/// up to one pixel in either direction: AdamW, cosine schedule, clipping at norm 1. `progress`
/// hears of (step, steps) after each update.
///
/// The result depends on `seed`, `steps`, the device and its number of threads alone.
///
/// # Errors
/// A loss that diverged.
pub fn pretrain_digits_vit(
    seed: u64,
    device: &Device,
    steps: u64,
    mut progress: impl FnMut(u64, u64),
) -> Result<Pretrained> {
    let digits = Digits::load()?;
    let split = Split::stratified(&digits.labels);
    let train = Domain::Upright.apply(&digits, &split.pretraining);
    let test = Labelled::new(&Domain::Upright.apply(&digits, &split.test), device);

    let config = TrainConfig {
        steps,
        seed,
        learning_rate: 3e-3,
        optimizer: OptimizerConfig::AdamW(AdamW {
            weight_decay: 0.05,
            ..AdamW::default()
        }),
        decay: Decay::Cosine,
        warmup: steps / 10,
        clip: Some(1.0),
        ..TrainConfig::default()
    };
    let key = Key::new(seed).child("digits-vit");
    let model = Vit::new(&digits_vit_config(), &key, device, DType::F32)?;
    let mut trainer = Trainer::new(config, model)?;
    let loss = |model: &Vit, rows: &[usize], mode: Mode| {
        let step = match mode {
            Mode::Train { step, .. } => step,
            Mode::Eval => 0,
        };
        let batch = train.gather(rows);
        let images = shifted(&batch, &key.child("shift").child(&step.to_string()), device);
        let labels = Labelled::new(&batch, device).labels;
        cross_entropy(model.forward(images, &Ctx::default()), labels)
    };
    let mut batcher = Batcher::new(train.len(), BATCH, seed)?;
    trainer.run(
        &mut batcher,
        loss,
        |_| 0.0,
        |trainer| {
            progress(trainer.steps_done(), steps);
            Ok(())
        },
    )?;

    let model = trainer.finish().0.valid();
    let test_accuracy = accuracy(model.forward(test.images, &Ctx::default()), test.labels);
    Ok(Pretrained {
        model,
        provenance: Provenance {
            model: "digits-vit",
            seed,
            steps,
            data: digits.hash(),
            test_accuracy,
        },
    })
}

/// The images, each moved by -1, 0 or 1 pixel in either direction; 0 enters at the edges.
fn shifted(batch: &Examples, key: &Key, device: &Device) -> Tensor<2> {
    let (height, width) = (batch.height as i64, batch.width as i64);
    let mut rng = key.rng();
    let mut pixels = Vec::with_capacity(batch.images.len());
    for image in batch.images.chunks_exact((height * width) as usize) {
        let (down, right) = (rng.random_range(-1..=1), rng.random_range(-1..=1));
        for (row, column) in
            (0..height).flat_map(|row| (0..width).map(move |column| (row - down, column - right)))
        {
            let inside = (0..height).contains(&row) && (0..width).contains(&column);
            pixels.push(if inside {
                image[(row * width + column) as usize]
            } else {
                0.0
            });
        }
    }
    Tensor::from_data(
        TensorData::new(pixels, [batch.len(), (height * width) as usize]),
        device,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_move_by_at_most_one_pixel_and_lose_only_the_edge() {
        let mut image = [0.0; 25];
        image[12] = 1.0;
        let batch = Examples {
            images: image.repeat(200),
            labels: vec![0; 200],
            height: 5,
            width: 5,
        };
        let moved = shifted(&batch, &Key::new(0), &Device::default())
            .to_data()
            .try_to_vec::<f32>()
            .unwrap();
        let mut places: Vec<usize> = moved
            .chunks(25)
            .map(|image| image.iter().position(|pixel| *pixel == 1.0).unwrap())
            .collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places, [6, 7, 8, 11, 12, 13, 16, 17, 18]);
    }

    #[test]
    fn the_model_that_ships_recognises_upright_test_digits() {
        let digits = Digits::load().unwrap();
        let split = Split::stratified(&digits.labels);
        let device = Device::default();
        let model = engraft_models::digits_vit(&device).unwrap().valid();
        let test = Labelled::new(&Domain::Upright.apply(&digits, &split.test), &device);
        let accuracy = accuracy(model.forward(test.images, &Ctx::default()), test.labels);
        assert!(accuracy >= 0.95, "{accuracy}");
    }

    #[test]
    fn a_few_steps_are_reproducible_and_learn() {
        let run = || pretrain_digits_vit(1, &Device::default(), 60, |_, _| ()).unwrap();
        let (first, second) = (run(), run());
        let values = |run: &Pretrained| engraft_core::params::read(&run.model, |_| true);
        assert_eq!(values(&first), values(&second));
        assert!(
            first.provenance.test_accuracy > 0.3,
            "{:?}",
            first.provenance
        );
    }
}
