//! Low-rank adapters: the update of a frozen weight is a product of two thin matrices.

mod adamss;
mod aslora;
mod dora;
mod frod;
mod indices;
mod k_means;
mod lily;
mod lora;
mod mos;
mod pvera;
mod randlora;
mod sharing;
mod softmax;
#[cfg(test)]
mod testing;
mod tinylora;
mod unilora;
mod vb_lora;
mod vera;

pub use adamss::{Adamss, AdamssConfig, Subspaces};
pub use aslora::{AsLora, AsLoraConfig};
pub use dora::{Dora, DoraConfig};
pub use frod::{Frod, FrodConfig};
pub use lily::{Lily, LilyConfig};
pub use lora::{Lora, LoraConfig, LoraInit};
pub use mos::{Mos, MosConfig};
pub use pvera::{Pvera, PveraConfig};
pub use randlora::{RandBasis, RandLora, RandLoraConfig};
pub use sharing::{MergeSchedule, Sharing};
pub use tinylora::{TinyLora, TinyLoraConfig};
pub use unilora::{UniLora, UniLoraConfig};
pub use vb_lora::{Mixture, VbForm, VbLora, VbLoraConfig};
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
