//! Hugging Face PEFT interchange: adapters as `adapter_config.json` and
//! `adapter_model.safetensors`, read and written.
//!
//! A PEFT type is one file under `types/`: it reads its configuration into a method and says which
//! tensor is which parameter. Reading, writing and the conformance runs of [`vectors`] all follow
//! that one list. PyTorch stores weights as (out, in), Engraft as [in, out].
//!
//! Nothing is guessed: tensors with unknown keys or shapes and configuration keys with an unknown
//! meaning are errors that name them, and a file is never partly applied.

mod adapter;
mod base_weights;
mod config;
mod convert;
mod copies;
mod error;
mod experts;
mod export;
mod extras;
mod field;
mod import;
mod numpy;
mod pair;
mod pieces;
mod targets;
mod ties;
mod tokens;
mod torch;
mod torch_draws;
mod turning;
mod types;
pub mod vectors;
mod whole;

pub use adapter::{CONFIG_FILE, PeftAdapter, TENSOR_FILE, export, load, save};
pub use config::PeftConfig;
pub use convert::{Budget, Converted, to_lora};
pub use error::{Error, Result};
pub use import::Import;

/// The PEFT types that are read and written.
pub fn supported_types() -> Vec<&'static str> {
    types::names()
}
