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
mod activation;
mod beft;
mod deft;
mod delora;
mod dora;
mod glora;
mod gralora;
mod hira;
mod loha;
mod lora;
mod miss;
mod para;
mod peanut;
mod projection;
#[cfg(test)]
mod trial;
mod vera;

pub use activation::Activation;
pub use beft::{Beft, BeftConfig};
pub use deft::{Deft, DeftConfig};
pub use delora::{Delora, DeloraConfig};
pub use dora::{Dora, DoraConfig};
pub use glora::{Glora, GloraConfig, GloraMatrix, GloraOffset, GloraPath, GloraPrompt};
pub use gralora::{Gralora, GraloraConfig};
pub use hira::{Hira, HiraConfig};
pub use loha::{HadamardFactor, Loha, LohaConfig};
pub use lora::{Lora, LoraConfig, LoraInit};
pub use miss::{Miss, MissConfig, MissVariant};
pub use para::{Para, ParaConfig};
pub use peanut::{Peanut, PeanutConfig};
pub use projection::Projection;
pub use vera::{Vera, VeraConfig};
