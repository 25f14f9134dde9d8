//! Structured adapters: the update of a frozen weight is circulant, Toeplitz, of low displacement
//! rank, or sparse in a spectral domain.

mod c3a;
mod fourierft;
mod spectrum;
#[cfg(test)]
mod testing;

pub use c3a::{C3a, C3aConfig, C3aInit};
pub use fourierft::{FourierFt, FourierFtConfig};
