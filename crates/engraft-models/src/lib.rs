//! Models written with slots and sites, and published architectures as shapes.
//!
//! [`Mlp`] and [`Vit`] run and can be adapted: they are made of `engraft_core::Linear` slots and
//! `Site`s and implement `Adaptable`. [`digits_vit`] is a small ViT that ships with its weights.
//! [`Bert`], [`Gpt2`], [`Llama`] and [`HfVit`] are models of `transformers` with its layout of paths
//! and files; [`Pretrained`] is any of them. [`generate`] and [`score`] are for the decoders.
//! [`shapes`] reads a Hugging Face `config.json`, or the name of a known model, into the shapes
//! that parameter counts need; no weight is loaded.

mod activation;
mod attention;
mod bert;
mod block;
mod checkpoint;
mod decoder;
mod feed_forward;
mod gpt2;
mod hf_vit;
mod init;
mod layer_norm;
mod llama;
mod mlp;
mod output;
mod parts;
mod presets;
mod pretrained;
mod replication;
pub mod shapes;
mod task;
#[cfg(test)]
mod testing;
mod vit;
mod vit_config;

pub use activation::Activation;
pub use attention::Attention;
pub use bert::{Bert, BertBlock, BertConfig, BertHead, Embeddings};
pub use block::{Block, BlockSites};
pub use checkpoint::{
    LoadOptions, LoadReport, QuantisedLayer, load, locate, stored_modules, weight_files,
};
pub use decoder::{
    Cache, CausalLm, DecoderHead, Generation, RmsNorm, Rope, Sampling, Score, generate, perplexity,
    score,
};
pub use feed_forward::FeedForward;
pub use gpt2::{Gpt2, Gpt2Attention, Gpt2Block, Gpt2Body, Gpt2Config, Gpt2FeedForward};
pub use hf_vit::{HfVit, HfVitBlock, HfVitConfig, ImageEmbeddings};
pub use layer_norm::LayerNorm;
pub use llama::{GatedFeedForward, Llama, LlamaAttention, LlamaBlock, LlamaBody, LlamaConfig};
pub use mlp::{Mlp, MlpConfig};
pub use output::{Logits, Output};
pub use parts::{Norm, SelfAttention};
pub use presets::{DIGITS_VIT, digits_vit, digits_vit_config};
pub use pretrained::Pretrained;
pub use task::Task;
pub use vit::Vit;
pub use vit_config::VitConfig;
