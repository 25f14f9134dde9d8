//! Low-rank adapters: the update of a frozen weight is a product of two thin matrices.

mod activation;
mod adalora;
mod beft;
mod deft;
mod delora;
mod dora;
mod dylora;
mod glora;
mod gralora;
mod hira;
mod importance;
mod increlora;
mod loha;
mod lora;
mod miss;
mod para;
mod peanut;
mod projection;
mod schedule;
mod triadaptlora;
#[cfg(test)]
mod trial;
mod triplets;
mod vera;

pub use activation::Activation;
pub use adalora::{Adalora, AdaloraConfig, AdaloraState};
pub use beft::{Beft, BeftConfig};
pub use deft::{Deft, DeftConfig};
pub use delora::{Delora, DeloraConfig};
pub use dora::{Dora, DoraConfig};
pub use dylora::{Dylora, DyloraConfig, DyloraUpdate};
pub use glora::{Glora, GloraConfig, GloraMatrix, GloraOffset, GloraPath, GloraPrompt};
pub use gralora::{Gralora, GraloraConfig};
pub use hira::{Hira, HiraConfig};
pub use importance::Importance;
pub use increlora::{Increlora, IncreloraConfig};
pub use loha::{HadamardFactor, Loha, LohaConfig};
pub use lora::{Lora, LoraConfig, LoraInit};
pub use miss::{Miss, MissConfig, MissVariant};
pub use para::{Para, ParaConfig};
pub use peanut::{Peanut, PeanutConfig};
pub use projection::Projection;
pub use schedule::{Allocation, BudgetSchedule, GrowthSchedule, Threshold};
pub use triadaptlora::{Triadaptlora, TriadaptloraConfig, TriadaptloraState};
pub use vera::{Vera, VeraConfig};
