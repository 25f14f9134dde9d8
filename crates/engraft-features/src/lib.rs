//! Adapters that scale, shift and edit features, and the baselines that train parameters of the model
//! itself.

mod adalink;
mod bitfit;
mod direft;
mod full;
mod ia3;
mod ia3_targets;
mod linear_probe;
mod ln_tuning;
mod loreft;
mod noreft;
mod positions;
mod projection;
mod reft;
mod ssf;
#[cfg(test)]
mod testing;

pub use adalink::{AdaLink, AdaLinkConfig, Link};
pub use bitfit::BitFitConfig;
pub use direft::DireftConfig;
pub use full::FullConfig;
pub use ia3::{Ia3, Ia3Config, Scales};
pub use linear_probe::LinearProbeConfig;
pub use ln_tuning::{LnTuningConfig, Tuned};
pub use loreft::LoreftConfig;
pub use noreft::NoreftConfig;
pub use positions::Positions;
pub use projection::Projection;
pub use reft::{Edit, Reft, Start};
pub use ssf::{Ssf, SsfConfig};
