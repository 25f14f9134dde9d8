//! Kronecker adapters: the update of a frozen weight is a Kronecker product of two small factors.

mod factor;
mod lokr;

pub use factor::{Factor, factorisation};
pub use lokr::{Lokr, LokrConfig, LokrInit};
