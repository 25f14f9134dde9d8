//! Orthogonal adapters from block-diagonal and butterfly rotations: the input of a frozen layer is
//! rotated before the layer sees it.

mod blocks;
mod boft;
mod cayley;
mod dropout;
mod oft;
mod outputs;
mod perm;
mod rotation;
mod skew;
#[cfg(test)]
mod testing;

pub use blocks::{BlockLayout, Blocks};
pub use boft::{Boft, BoftConfig};
pub use cayley::Cayley;
pub use oft::{Oft, OftConfig};
pub use outputs::{Outputs, Retuned};
pub use skew::{Parametrisation, skew_from_upper, skew_part};
