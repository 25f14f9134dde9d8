//! Orthogonal adapters from Givens rotations: the input of a frozen layer is rotated pair by pair
//! in log2(d) parallel stages before the layer sees it.

mod goft;
mod qgoft;
mod stages;

pub use goft::{Goft, GoftConfig};
pub use qgoft::{Qgoft, QgoftConfig};
pub use stages::PlaneMaps;
