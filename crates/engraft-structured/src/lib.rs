//! Structured adapters: the update of a frozen weight is circulant, Toeplitz, of low displacement
//! rank, or sparse in a spectral domain.

mod c3a;
mod circulant;
mod fourierft;
mod ldr;
mod spectrum;
mod surm;
#[cfg(test)]
mod testing;
mod toeplitz;
mod waveft;
mod wavelet;

pub use c3a::{C3a, C3aConfig, C3aInit};
pub use circulant::{SurmCirculant, SurmCirculantConfig};
pub use fourierft::{FourierFt, FourierFtConfig};
pub use ldr::{SurmLdr, SurmLdrConfig};
pub use surm::SurmForm;
pub use toeplitz::{SurmToeplitz, SurmToeplitzConfig};
pub use waveft::{WaveFt, WaveFtConfig, WaveFtInit};
