//! Orthogonal adapters from Givens rotations and Householder reflections: the input of a frozen
//! layer (or its output) is rotated pair by pair, or reflected at hyperplanes.

mod ether;
mod ether_plus;
mod goft;
mod hra;
mod hyperplanes;
mod qgoft;
mod road;
mod stages;
#[cfg(test)]
mod testing;

pub use ether::{Ether, EtherConfig};
pub use ether_plus::EtherPlusConfig;
pub use goft::{Goft, GoftConfig};
pub use hra::{Hra, HraConfig, Orthogonality};
pub use hyperplanes::{Hyperplanes, Sides};
pub use qgoft::{Qgoft, QgoftConfig};
pub use road::{Road, RoadConfig, Variant};
