//! Bottleneck adapters: a small network of one hidden layer at the sublayers of a transformer.

mod bottleneck;
mod parallel;
mod series;

pub use engraft_core::{Activation, Sublayers};

pub use bottleneck::{Bottleneck, BottleneckShape};
pub use parallel::{BottleneckParallel, BottleneckParallelConfig};
pub use series::{BottleneckSeries, BottleneckSeriesConfig};
