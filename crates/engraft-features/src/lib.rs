//! Adapters that scale and shift features, and the baselines that train parameters of the model
//! itself.

mod bitfit;
mod full;
mod ia3;
mod linear_probe;
mod ssf;

pub use bitfit::BitFitConfig;
pub use full::FullConfig;
pub use ia3::{Ia3, Ia3Config, Scales};
pub use linear_probe::LinearProbeConfig;
pub use ssf::{Ssf, SsfConfig};
