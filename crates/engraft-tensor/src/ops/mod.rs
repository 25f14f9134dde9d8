//! Operations with a kernel and a backward pass of their own.
//!
//! On the flex backend they run on `engraft-kernels`; on every other backend, and in half
//! precision, they are the composition of Burn's operations that they are tested against.

mod circular;
mod fused;
mod gelu;
mod linear;
mod low_rank;
mod sparse;
#[cfg(test)]
mod testing;
mod update;
mod waves;

pub use circular::{circular, circular_linear, circular_weight};
pub use gelu::gelu;
pub use linear::{linear, matmul};
pub use low_rank::{low_rank, low_rank_update};
pub use sparse::{sparse_linear, sparse_weight};
pub use waves::{Spectrum, waves_linear, waves_weight};
