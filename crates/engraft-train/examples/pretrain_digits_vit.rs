//! Pre-trains the digits ViT and writes it as safetensors.
//!
//! `cargo run -p engraft-train --example pretrain_digits_vit -- FILE [SEED] [STEPS]`

use std::time::Instant;

use burn::tensor::Device;
use engraft_train::{DIGITS_VIT_STEPS, pretrain_digits_vit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("expected the file to write")?;
    let seed = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let steps = arguments
        .next()
        .map_or(Ok(DIGITS_VIT_STEPS), |text| text.parse())?;
    let start = Instant::now();
    let pretrained = pretrain_digits_vit(seed, &Device::default(), steps, |step, steps| {
        if step.is_multiple_of(100) {
            println!("{step} of {steps} steps, {:.1?}", start.elapsed());
        }
    })?;
    pretrained.save(path.as_ref())?;
    println!("{:?}", pretrained.provenance);
    Ok(())
}
