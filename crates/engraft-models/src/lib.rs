//! Models written with slots and sites, and published architectures as shapes.
//!
//! [`Mlp`] and [`Vit`] run and can be adapted: they are made of `engraft_core::Linear` slots and
//! `Site`s and implement `Adaptable`. [`digits_vit`] is a small ViT that ships with its weights.
//! [`shapes`] reads a Hugging Face `config.json`, or the name of a known model, into the shapes
//! that parameter counts need; no weight is loaded.

mod activation;
mod attention;
mod block;
mod feed_forward;
mod init;
mod layer_norm;
mod mlp;
mod presets;
pub mod shapes;
#[cfg(test)]
mod testing;
mod vit;
mod vit_config;

pub use activation::Activation;
pub use attention::Attention;
pub use block::{Block, BlockSites};
pub use feed_forward::FeedForward;
pub use layer_norm::LayerNorm;
pub use mlp::{Mlp, MlpConfig};
pub use presets::{DIGITS_VIT, digits_vit, digits_vit_config};
pub use vit::Vit;
pub use vit_config::VitConfig;
