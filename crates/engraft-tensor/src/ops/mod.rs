//! Operations with a kernel and a backward pass of their own.
//!
//! On the flex backend they run on `engraft-kernels`; on every other backend, and in half
//! precision, they are the composition of Burn's operations that they are tested against.

mod activation;
mod adamw;
mod attention;
mod circular;
mod clip;
mod cosine;
mod flex;
mod fused;
mod linear;
mod low_rank;
mod norm;
mod softmax;
#[cfg(test)]
mod testing;

pub use activation::{gelu, relu, sigmoid, silu, tanh};
pub use adamw::{AdamW, AdamWParameter, adamw};
pub use attention::{Weighing, attention};
pub use circular::{circulant_matrix, circular};
pub use clip::clip_norm;
pub use cosine::cosine_sums;
pub use linear::{linear, matmul};
pub use low_rank::{low_rank, low_rank_update};
pub use norm::{layer_norm, rms_norm};
pub use softmax::softmax;
