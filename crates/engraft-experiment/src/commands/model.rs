//! The model that a command is about.

use std::path::{Path, PathBuf};

use clap::Args;
use engraft_experiment::{Error, Result};

/// How a model is named.
#[derive(Args)]
pub struct Model {
    /// The model: a directory with config.json, safetensors and tokenizer.json, or its id on the
    /// Hugging Face hub, owner/name or owner/name@revision
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Fetch what the hub's cache lacks of the model (cargo xtask builds in what this takes);
    /// without, what was fetched before is used
    #[arg(long)]
    hub: bool,
}

impl Model {
    /// The directory or id.
    pub fn named(&self) -> Result<&Path> {
        if self.hub && !cfg!(feature = "hub") {
            return Err(Error::NotBuilt(
                "--hub: this build fetches nothing; build with `--features hub`, or run `cargo xtask`"
                    .to_owned(),
            ));
        }
        Ok(&self.model)
    }
}
