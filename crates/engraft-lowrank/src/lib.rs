//! Low-rank adapters: the update of a frozen weight is a product of two thin matrices.

mod dora;
mod lora;
mod vera;

pub use dora::{Dora, DoraConfig};
pub use lora::{Lora, LoraConfig, LoraInit};
pub use vera::{Vera, VeraConfig};
