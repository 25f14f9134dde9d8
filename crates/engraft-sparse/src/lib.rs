//! Sparse adapters: a few entries of a frozen weight are trained, the rest stays.

mod coupling;
mod dsee;
mod entries;
mod exchange;
mod id3;
mod localise;
mod losia;
mod losia_state;
mod lt_sft;
mod mask;
mod mask_tuning;
mod neuroada;
mod paca;
mod rosa;
mod s2ft;
mod scores;
mod shira;
mod spiel;
mod spiel_state;
mod spt;
mod straight_through;
mod supertuning;
mod taps;
mod top;
#[cfg(test)]
mod training;
mod warm_up;

pub use coupling::Coupling;
pub use dsee::{Dsee, DseeConfig, Placement};
pub use id3::{Id3, Id3Config};
pub use losia::{Losia, LosiaConfig, Turns};
pub use losia_state::{LosiaState, Taylor};
pub use lt_sft::{LtSft, LtSftConfig, LtSftState};
pub use mask::Mask;
pub use mask_tuning::{MaskTuning, MaskTuningConfig};
pub use neuroada::{NeuroAda, NeuroAdaConfig};
pub use paca::{Paca, PacaChoice, PacaConfig};
pub use rosa::{Rosa, RosaConfig, RosaState};
pub use s2ft::{S2ft, S2ftConfig};
pub use shira::{Shira, ShiraConfig};
pub use spiel::{Fall, Growth, Spiel, SpielConfig};
pub use spiel_state::SpielState;
pub use spt::{Spt, SptBudget, SptConfig, SptTuning};
pub use supertuning::{SuperTuning, SuperTuningConfig, Support, Supra};
pub use taps::{Taps, TapsConfig};
pub use warm_up::{Accumulation, WarmUp};
