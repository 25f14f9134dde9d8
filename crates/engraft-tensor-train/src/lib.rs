//! Tensor-train adapters: matrices held as chains of small cores.

mod loretta_adp;
mod loretta_rep;
mod modes;
mod mpo;
mod operator;
mod tt;
mod tt_lora;

pub use loretta_adp::{LorettaAdp, LorettaAdpConfig};
pub use loretta_rep::{LorettaRep, LorettaRepConfig};
pub use modes::modes;
pub use mpo::{Central, Mpo, MpoConfig};
pub use tt::TensorTrain;
pub use tt_lora::{TtLora, TtLoraConfig};
