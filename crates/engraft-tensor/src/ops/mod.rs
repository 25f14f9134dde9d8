//! Operations with a kernel and a backward pass of their own.
//!
//! On the flex backend they run on `engraft-kernels`; on every other backend, and in half
//! precision, they are the composition of Burn's operations that they are tested against.

mod beside;
mod block_low_rank;
mod circular;
mod columns;
mod cosine;
mod flex;
mod fused;
mod gelu;
mod hadamard;
mod khatri_rao;
mod kronecker;
mod linear;
mod low_rank;
mod shards;
#[cfg(test)]
mod testing;

pub use block_low_rank::{block_low_rank, block_low_rank_update};
pub use circular::{circulant_matrix, circular};
pub use columns::{column_norms, scaled_columns};
pub use cosine::cosine_sums;
pub use gelu::gelu;
pub use hadamard::modulated;
pub use khatri_rao::row_products;
pub use kronecker::{kronecker, kronecker_update};
pub use linear::{linear, matmul};
pub use low_rank::{low_rank, low_rank_update};
pub use shards::{shard_update, shards};
