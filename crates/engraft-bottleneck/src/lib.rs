//! Bottleneck adapters: a small network of one hidden layer at the sublayers of a transformer.

mod activation;
mod bottleneck;
mod parallel;
mod series;
mod sublayers;

pub use activation::Activation;
pub use bottleneck::{Bottleneck, BottleneckShape};
pub use parallel::{BottleneckParallel, BottleneckParallelConfig};
pub use series::{BottleneckSeries, BottleneckSeriesConfig};
pub use sublayers::Sublayers;
