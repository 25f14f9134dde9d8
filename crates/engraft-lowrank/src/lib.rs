//! Low-rank adapters: the update of a frozen weight is a product of two thin matrices.

mod activation;
mod beft;
mod deft;
mod delora;
mod dora;
mod glora;
mod glora_path;
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
pub use glora::{Glora, GloraConfig, GloraMatrix, GloraOffset, GloraPrompt};
pub use glora_path::GloraPath;
pub use gralora::{Gralora, GraloraConfig};
pub use hira::{Hira, HiraConfig};
pub use loha::{HadamardFactor, Loha, LohaConfig};
pub use lora::{Lora, LoraConfig, LoraInit};
pub use miss::{Miss, MissConfig, MissVariant};
pub use para::{Para, ParaConfig};
pub use peanut::{Peanut, PeanutConfig};
pub use projection::Projection;
pub use vera::{Vera, VeraConfig};
