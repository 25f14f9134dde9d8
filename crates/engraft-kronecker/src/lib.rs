//! Kronecker adapters: the update of a frozen weight is made of Kronecker products of small factors.

mod compacter;
mod factor;
mod kadaptation;
mod lokr;
mod moka;
mod phm;
mod phm_linear;
mod shape;
mod soka;
mod spectrum;

pub use compacter::{Compacter, CompacterConfig};
pub use factor::{Factor, factorisation};
pub use kadaptation::{Kadaptation, KadaptationConfig, Sharing};
pub use lokr::{Lokr, LokrConfig, LokrInit};
pub use moka::{Moka, MokaConfig};
pub use phm::{Phm, Rules};
pub use phm_linear::{PhmLinear, PhmLinearConfig};
pub use soka::{Selection, Soka, SokaConfig};
pub use spectrum::{elbow_rank, energy_rank};
