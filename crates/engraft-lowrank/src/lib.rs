//! Low-rank adapters: the update of a frozen weight is a product of two thin matrices.

mod bd_lora;
mod capaboost;
mod dora;
mod gamma;
mod hydra;
mod lora;
mod lora_fa;
mod lora_plus;
mod mica;
mod monteclora;
mod msplora;
mod selective_lora;
#[cfg(test)]
mod testing;
mod velora;
mod vera;

pub use bd_lora::{BdLora, BdLoraConfig, BlockDiagonal};
pub use capaboost::{Capaboost, CapaboostConfig, Masks};
pub use dora::{Dora, DoraConfig};
pub use hydra::{Branch, Hydra, HydraConfig};
pub use lora::{Lora, LoraConfig, LoraInit};
pub use lora_fa::{FrozenFactor, FrozenInit, LoraFaConfig};
pub use lora_plus::LoraPlusConfig;
pub use mica::MicaConfig;
pub use monteclora::{Monteclora, MontecloraConfig};
pub use msplora::{Msplora, MsploraConfig};
pub use selective_lora::{SelectiveLora, SelectiveLoraConfig};
pub use velora::{Projection, Velora, VeloraConfig};
pub use vera::{Vera, VeraConfig};
