//! Trained tokens, keys and values: what is put in front of a sequence, or of the keys it attends to.

mod adaption_prompt;
mod cartridge;
mod cpt;
mod e2vpt;
mod encoder;
mod multitask;
mod p_tuning;
mod pasta;
mod prefix_tuning;
mod prompt_tuning;
mod pruning;
mod shadow;
#[cfg(test)]
mod testing;
mod tokens;
mod trainable_tokens;
mod vpt;

pub use adaption_prompt::{AdaptionPrompt, AdaptionPromptConfig};
pub use cartridge::{Cartridge, CartridgeConfig, cached};
pub use cpt::{Cpt, CptConfig, LossWeighting, loss_weights};
pub use e2vpt::{E2vpt, E2vptConfig};
pub use encoder::{Dense, Lstm, LstmCell, Perceptron};
pub use multitask::{MultitaskPromptTuning, MultitaskPromptTuningConfig};
pub use p_tuning::{PTuning, PTuningConfig, PromptEncoder};
pub use pasta::{Pasta, PastaConfig};
pub use prefix_tuning::{PrefixTuning, PrefixTuningConfig};
pub use prompt_tuning::{PromptTuning, PromptTuningConfig};
pub use pruning::{Importance, PruningMask};
pub use shadow::{BackboneConfig, Shadow, ShadowConfig};
pub use tokens::Start;
pub use trainable_tokens::{RowStart, TrainableTokensConfig};
pub use vpt::{Vpt, VptConfig};
