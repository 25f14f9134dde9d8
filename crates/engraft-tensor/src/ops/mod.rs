//! Operations with a kernel and a backward pass of their own.
//!
//! On the flex backend they run on `engraft-kernels`; on every other backend, and in half
//! precision, they are the composition of Burn's operations that they are tested against.

mod activation;
mod adamw;
mod attention;
mod block_low_rank;
mod butterfly;
mod circular;
mod clip;
mod columns;
mod flex;
mod fused;
mod grouped;
mod hadamard;
mod khatri_rao;
mod kronecker;
mod linear;
mod low_rank;
mod mean_squared_error;
mod norm;
mod pair_maps;
mod plane_maps;
mod quantised;
mod reflections;
mod rotary;
mod rotation;
mod rotations;
mod shards;
mod softmax;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;
mod update;
mod waves;

pub use activation::{gelu, relu, sigmoid, silu, tanh};
pub use adamw::{AdamW, AdamWParameter, adamw};
pub use attention::{Weighing, attention};
pub use block_low_rank::{block_low_rank, block_low_rank_update};
pub use butterfly::{butterfly, butterfly_rows};
pub use circular::{circular, circular_linear, circular_weight};
pub use clip::clip_norm;
pub use columns::{column_norms, scaled_columns};
pub use grouped::{Factors, RowTokens, grouped, grouped_low_rank};
pub use hadamard::modulated;
pub use khatri_rao::row_products;
pub use kronecker::{kronecker, kronecker_update};
pub use linear::{linear, matmul};
pub use low_rank::{low_rank, low_rank_update};
pub use mean_squared_error::mean_squared_error;
pub use norm::{layer_norm, rms_norm};
pub use pair_maps::{PairRotation, rotate_pairs};
pub use plane_maps::{plane_maps, plane_maps_rows};
pub use quantised::{QuantisedWeight, quantised_linear, quantised_tied};
pub use reflections::reflect;
pub use rotary::rotary;
pub use rotation::{rotate, rotate_rows};
pub(crate) use rotations::rotations;
pub use shards::{shard_update, shards};
pub use softmax::softmax;
pub use sparse::{sparse_linear, sparse_weight};
pub use waves::{Spectrum, waves_linear, waves_weight};
