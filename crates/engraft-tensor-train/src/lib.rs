//! Tensor-train adapters: matrices held as chains of small cores.

mod loretta_rep;
mod modes;
mod tt;

pub use loretta_rep::{LorettaRep, LorettaRepConfig};
pub use modes::modes;
pub use tt::TensorTrain;
