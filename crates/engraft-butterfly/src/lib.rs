//! Orthogonal adapters from block-diagonal and butterfly rotations: the input of a frozen layer is
//! rotated before the layer sees it.

mod blocks;
mod boft;
mod dropout;
mod oft;
mod outputs;
mod skew;
#[cfg(test)]
mod testing;

use engraft_tensor::cayley;

pub use blocks::{BlockLayout, Blocks};
pub use boft::{Boft, BoftConfig};
pub use cayley::{Cayley, skew_from_upper, skew_part};
pub use oft::{Convolution, Oft, OftConfig};
pub use outputs::{Outputs, Retuned};
pub use skew::Parametrisation;
