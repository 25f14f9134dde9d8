//! Sparse adapters: a few entries of a frozen weight are trained, the rest stays.

mod mask;
mod shira;

pub use mask::Mask;
pub use shira::{Shira, ShiraConfig};
