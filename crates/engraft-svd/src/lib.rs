//! Adapters made from the singular vectors of the weight, of the layer's inputs or of its gradient:
//! where LoRA starts from noise, these start from what the pretrained weight already does, or from
//! what data asks of it.

mod corda;
mod eva;
mod eva_ranks;
mod kasa;
mod loftq;
mod loku;
mod lora_ga;
mod lora_sb;
mod lora_xs;
mod milora;
mod olora;
mod osf;
#[cfg(test)]
mod peft_inits;
mod pissa;
mod psoft;
mod residual_lora;
mod soda;
mod spectrum;
mod svft;
mod svft_pattern;
#[cfg(test)]
mod testing;

pub use corda::{CordaConfig, CordaMode};
pub use eva::EvaConfig;
pub use kasa::{Kasa, KasaConfig};
pub use loftq::LoftqConfig;
pub use loku::{LokuConfig, relative_fisher};
pub use lora_ga::{LoraGaConfig, LoraGaDirection, LoraGaScale};
pub use lora_sb::LoraSbConfig;
pub use lora_xs::{LoraXs, LoraXsConfig};
pub use milora::MiloraConfig;
pub use olora::OloraConfig;
pub use osf::{Osf, OsfConfig, Preserved};
pub use pissa::PissaConfig;
pub use psoft::{Psoft, PsoftConfig, PsoftRotation, PsoftSplit};
pub use residual_lora::ResidualLora;
pub use soda::{Soda, SodaBasis, SodaConfig, SodaFactors};
pub use svft::{Svft, SvftConfig, SvftStart};
pub use svft_pattern::SvftPattern;
