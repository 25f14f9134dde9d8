//! Orthogonal adapters from block-diagonal and butterfly rotations: the input of a frozen layer is
//! rotated before the layer sees it.

mod blocks;
mod boft;
mod oft;
mod perm;
mod rotation;
#[cfg(test)]
mod testing;

use engraft_tensor::cayley;

pub use blocks::{BlockLayout, Blocks};
pub use boft::{Boft, BoftConfig};
pub use engraft_tensor::cayley::{Cayley, skew_from_upper, skew_part};
pub use oft::{Oft, OftConfig};
