//! What the benchmarks time.
//!
//! - [`step`]: one adapted layer, forward and backward, for criterion;
//! - [`training`]: a whole training step of a small network, as Python's script times it;
//! - [`limit`]: the products that a frozen network needs;
//! - [`growth`]: one adapted layer at any size;
//! - [`mixed`]: inference on a batch whose rows have different adapters;
//! - [`merge`]: folding an adapter into a large weight;
//! - [`switch`]: loading an adapter into a weight on the host;
//! - [`init`]: how an adapter starts, and the merge of low-rank factors;
//! - [`measure`]: how a case is timed in a process of its own.

pub mod growth;
pub mod init;
pub mod limit;
pub mod measure;
pub mod merge;
pub mod mixed;
mod shapes;
pub mod step;
pub mod switch;
pub mod training;

pub use shapes::{Axis, Layer, Method, Net, Shapes};
pub use step::Step;
