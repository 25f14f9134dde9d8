//! Encoded text: examples, the store that holds them, and batches of them.

mod batch;
mod example;
mod order;
mod pack;
mod set;
mod store;

pub use batch::{Targets, TextBatch};
pub use example::{Example, IGNORED, Target};
pub use order::Order;
pub use set::{TextOptions, TextSet};
