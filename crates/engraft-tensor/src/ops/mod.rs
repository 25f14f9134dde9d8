//! Operations with a kernel and a backward pass of their own.
//!
//! On the flex backend they run on `engraft-kernels`; on every other backend, and in half
//! precision, they are the composition of Burn's operations that they are tested against.

mod circular;
mod cosine;
mod flex;
mod fused;
mod gelu;
mod linear;
mod low_rank;
#[cfg(test)]
mod testing;

pub use circular::{circulant_matrix, circular};
pub use cosine::cosine_sums;
pub use gelu::gelu;
pub use linear::{linear, matmul};
pub use low_rank::{low_rank, low_rank_update};
