//! Sparse adapters: a few entries of a frozen weight are trained, the rest stays.

mod dsee;
mod entries;
mod exchange;
mod mask;
mod mask_tuning;
mod neuroada;
mod paca;
mod rosa;
mod s2ft;
mod scores;
mod shira;
mod spiel;
mod straight_through;
mod supertuning;
mod taps;
mod top;
#[cfg(test)]
mod training;

pub use dsee::{Dsee, DseeConfig, Placement};
pub use mask::Mask;
pub use mask_tuning::{MaskTuning, MaskTuningConfig};
pub use neuroada::{NeuroAda, NeuroAdaConfig};
pub use paca::{Paca, PacaChoice, PacaConfig};
pub use rosa::{Accumulation, Rosa, RosaConfig, RosaState, WarmUp};
pub use s2ft::{Coupling, S2ft, S2ftConfig};
pub use shira::{Shira, ShiraConfig};
pub use spiel::{Fall, Growth, Spiel, SpielConfig, SpielState};
pub use supertuning::{SuperTuning, SuperTuningConfig, Support, Supra};
pub use taps::{Taps, TapsConfig};
