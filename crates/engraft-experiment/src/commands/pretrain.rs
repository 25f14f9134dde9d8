//! `pretrain`: makes a model that ships with Engraft.

use std::path::PathBuf;

use clap::Args;
use engraft_experiment::{Error, Result, workspace};
use indicatif::{ProgressBar, ProgressStyle};

/// Arguments of `pretrain`.
#[derive(Args)]
pub struct Arguments {
    /// The model: digits-vit
    model: String,
    /// Seed of initial values, batches and augmentation
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Updates
    #[arg(long, default_value_t = engraft_train::DIGITS_VIT_STEPS)]
    steps: u64,
    /// Device
    #[arg(long, default_value = "flex")]
    device: String,
    /// Where to write the weights; the file that ships with the project by default
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Trains and writes the model.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.model != "digits-vit" {
        return Err(Error::unknown("model", &arguments.model, &["digits-vit"]));
    }
    let device = engraft_tensor::device(&arguments.device)
        .map_err(|error| Error::Input(error.to_string()))?
        .autodiff();
    let out = match &arguments.out {
        Some(path) => path.clone(),
        None => {
            workspace::current_root()?.join("crates/engraft-models/assets/digits-vit.safetensors")
        }
    };
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} steps, {eta} left")
        .expect("a valid template");
    let bar = ProgressBar::new(arguments.steps)
        .with_style(style)
        .with_message("digits-vit");
    let made =
        engraft_train::pretrain_digits_vit(arguments.seed, &device, arguments.steps, |step, _| {
            bar.set_position(step)
        })
        .map_err(|error| Error::Run(error.to_string()))?;
    bar.finish_and_clear();
    made.save(&out)
        .map_err(|error| Error::Input(error.to_string()))?;
    println!(
        "digits-vit: {:.1} % on upright test images; written to {}",
        100.0 * made.provenance.test_accuracy,
        out.display()
    );
    Ok(())
}
