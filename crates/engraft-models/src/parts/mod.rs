//! What Hugging Face models are made of. Parameters and layers have the names of `transformers`.

mod attention;
mod builder;
mod dropout;
mod layer_norm;
mod padding;
mod part;

pub use attention::SelfAttention;
pub(crate) use attention::{AttentionConfig, extended, heads_attention};
pub(crate) use builder::{Builder, Listing, Random, Source, Wanted};
pub(crate) use dropout::Dropout;
pub use layer_norm::Norm;
pub(crate) use padding::{Padding, check_indices, check_layout, enter, lowest};
pub(crate) use part::{Part, map, model_part, visit};
