//! What decoders have in common: causal attention with positions, masks and a cache, and a head
//! for the next token.

mod blocks;
mod cache;
mod causal_lm;
mod generate;
mod head;
mod pass;
mod rms_norm;
mod rope_scaling;
mod sampling;
mod score;
#[cfg(test)]
mod tests;
mod untying;

pub(crate) use blocks::{DecoderBlock, Reading, read};
pub use cache::Cache;
pub(crate) use cache::{KeyValues, LayerCache};
pub use causal_lm::CausalLm;
pub use generate::{Generation, generate};
pub use head::DecoderHead;
pub(crate) use head::HeadConfig;
pub(crate) use pass::Pass;
pub use rms_norm::RmsNorm;
pub(crate) use rms_norm::RmsNormConfig;
pub use rope_scaling::Rope;
pub use sampling::Sampling;
pub use score::{Score, perplexity, score};
pub(crate) use untying::Untying;
