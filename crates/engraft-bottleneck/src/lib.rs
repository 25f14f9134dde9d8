//! Bottleneck adapters: a small network of one hidden layer at the sublayers of a transformer.

mod adapter_drop;
mod adapter_fusion;
mod adapter_plus;
mod bi_adaptformer;
mod bottleneck;
mod codebook;
mod conv_adapter;
mod convpass;
mod dilated;
mod drop_path;
mod invertible;
mod mosa;
mod parallel;
mod quantised;
mod series;
mod sparse_adapter;
#[cfg(test)]
mod testing;
mod token_grid;
mod zero_i2v;

pub use engraft_core::{Activation, Sublayers};

pub use adapter_drop::{AdapterDrop, AdapterDropConfig, Dropping};
pub use adapter_fusion::{AdapterFusion, AdapterFusionConfig};
pub use adapter_plus::{AdapterPlus, AdapterPlusConfig, Position, ScaleOf, Start};
pub use bi_adaptformer::{BiAdaptFormer, BiAdaptFormerConfig, Form};
pub use bottleneck::{Bottleneck, BottleneckShape};
pub use codebook::codebook;
pub use conv_adapter::{ConvAdapter, ConvAdapterConfig};
pub use convpass::{Convpass, ConvpassConfig, Kernel};
pub use dilated::{DilatedAdapter, DilatedAdapterConfig};
pub use invertible::{Invertible, InvertibleConfig};
pub use mosa::{Merge, Mosa, MosaConfig, Share, Split};
pub use parallel::{BottleneckParallel, BottleneckParallelConfig};
pub use quantised::Quantised;
pub use series::{BottleneckSeries, BottleneckSeriesConfig};
pub use sparse_adapter::{Pruner, SparseAdapter, SparseAdapterConfig};
pub use zero_i2v::{LinearAdapter, Side, ZeroI2vConfig};
