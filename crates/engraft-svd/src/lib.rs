//! Adapters made from the singular vectors of the weight: where LoRA starts from noise, these start
//! from what the pretrained weight already does most.

mod lora_xs;
mod pissa;
mod spectrum;

pub use lora_xs::{LoraXs, LoraXsConfig};
pub use pissa::{Pissa, PissaConfig};
