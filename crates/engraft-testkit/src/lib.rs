//! What tests of Engraft are made of.
//!
//! - [`contract`]: holds a registered method to every word of its declaration;
//! - [`Harness`]: a small model with layers, sites, a norm and a head for methods to attach to;
//! - [`gradcheck`]: gradients of an adapted model against central differences;
//! - [`compare`]: tolerances that scale with precision and size;
//! - [`random`]: repeatable values for parameters and inputs;
//! - [`strategies`]: layer shapes for property tests.

pub mod compare;
pub mod contract;
mod front;
pub mod gradcheck;
mod harness;
pub mod random;
pub mod strategies;

pub use front::{Front, Layer};
pub use harness::{Block, Harness, Norm, Sites};
