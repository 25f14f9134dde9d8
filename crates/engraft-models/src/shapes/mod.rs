//! Hugging Face architectures as shapes: a `config.json`, or the name of a known model, without a
//! single weight.
//!
//! Paths are those of `transformers`. Layers are the linear layers of the blocks (and projections
//! beside them) and tables of embeddings, in forward order; only linear ones are default targets.
//! Every norm has a hidden site
//! `<norm>.output`, every block the sites `<block>.sites.{sequence, attention, mlp, output}`, every
//! self-attention a site `<attention>.key_value` as wide as its keys.

mod bert;
mod bloom;
mod build;
mod clip;
mod config;
mod dinov2;
mod gpt2;
mod llama;
mod opt;
mod preset;
mod t5;
mod vit;

pub use config::from_config_json;
pub use config::positions;
pub(crate) use config::{bad, from_value, padding_token, parse};
pub use preset::{preset, preset_names};
pub(crate) use vit::Sides;
