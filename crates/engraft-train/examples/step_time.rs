//! Step time of the digits ViT: full fine-tuning, and LoRA on all linear layers.
//!
//! `cargo run -p engraft-train --example step_time [BATCH]`

use std::time::Instant;

use burn::tensor::{DType, Device};
use engraft_core::{Adapted, AnyMethod, Ctx, Injection, Mode};
use engraft_data::{Digits, Domain};
use engraft_lowrank::LoraConfig;
use engraft_models::{Vit, digits_vit_config};
use engraft_tensor::Key;
use engraft_train::{Batcher, Labelled, TrainConfig, Trainer, cross_entropy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = std::env::args()
        .nth(1)
        .map_or(Ok(64), |text| text.parse())?;
    let device = Device::default();
    let digits = Digits::load()?;
    let data = Labelled::new(
        &Domain::Upright.apply(&digits, &(0..400).collect::<Vec<_>>()),
        &device,
    );
    let config = TrainConfig {
        steps: 60,
        ..TrainConfig::default()
    };
    let vit = Vit::new(&digits_vit_config(), &Key::new(0), &device, DType::F32)?;

    let mut full = Trainer::new(config.clone(), vit.clone())?;
    time("full fine-tuning", batch, &mut full, |model, rows, _| {
        let batch = data.rows(rows);
        cross_entropy(model.forward(batch.images, &Ctx::default()), batch.labels)
    })?;

    let mut adapted = Adapted::new(vit);
    adapted.attach(
        "lora",
        &AnyMethod::new(&LoraConfig::default())?,
        &Injection::new(0).with_head(),
    )?;
    let mut lora = Trainer::new(config, adapted)?;
    time("LoRA", batch, &mut lora, |model, rows, mode| {
        let batch = data.rows(rows);
        cross_entropy(
            model.model.forward(batch.images, &model.ctx(mode)),
            batch.labels,
        )
    })
}

fn time<M: engraft_core::Trained>(
    name: &str,
    batch: usize,
    trainer: &mut Trainer<M>,
    loss: impl Fn(&M, &[usize], Mode) -> burn::tensor::Tensor<1>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut batcher = Batcher::new(400, batch, 0)?;
    let mut times = Vec::new();
    for step in 0..60 {
        let rows = batcher.batch(step).to_vec();
        if rows.len() == batch {
            let start = Instant::now();
            trainer.step(|model, mode| loss(model, &rows, mode))?;
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    println!(
        "{name}, batch {batch}: median {:.2?}, minimum {:.2?}",
        times[times.len() / 2],
        times[0]
    );
    Ok(())
}
