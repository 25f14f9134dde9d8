//! Kernels for the CPU on plain slices, in `f32` and `f64`.
//!
//! Arrays are row-major slices; `[rows, width]` in a comment is a slice of `rows * width` numbers.
//! Every kernel is portable Rust that is compiled once for each instruction set and chosen at run
//! time ([`isa`]), and runs on rayon's threads when its work outweighs their start.
//!
//! Two promises hold for every function:
//!
//! - the result does not depend on the number of threads, to the last bit: work is divided by
//!   shape alone and partial sums are added in a fixed order;
//! - lengths that do not fit are a programmer's error and panic with both lengths named.
//!
//! Instruction sets with and without fused multiply-add differ in the last bits.

#[macro_use]
mod dispatch;
#[macro_use]
mod vector;
mod adamw;
mod attention;
pub mod bit_stream;
mod block_low_rank;
mod butterfly;
mod cayley;
mod circulant;
mod circular;
mod columns;
mod elementwise;
mod fold;
mod fourier;
mod gelu;
mod givens;
mod group;
mod grouped;
mod hadamard;
mod khatri_rao;
mod kron;
mod kron_matrix;
mod levels;
mod lines;
mod mapped;
pub mod math;
mod matmul;
mod moves;
mod norm;
mod number_format;
mod pairs;
mod parallel;
mod product;
mod quantisation;
mod quantised;
mod quantised_product;
mod real;
mod reflection;
mod rotary;
mod rotation;
mod shards;
mod sigmoid;
mod silu;
mod skinny;
mod softmax;
mod sparse;
mod squares;
mod sums;
#[cfg(test)]
mod testing;
mod updated;
mod waves;

pub use adamw::{AdamW, Parameter};
pub use attention::{Attention, Mask, RowStatistics};
pub use block_low_rank::BlockLowRank;
pub use butterfly::Butterfly;
pub use cayley::Rotations;
pub use circular::CirculantBlocks;
pub use columns::{low_rank_column_norms, scale_columns, scale_columns_backward};
pub use dispatch::{Isa, isa, limit_isa};
pub use gelu::{gelu, gelu_backward};
pub use givens::PlaneMaps;
pub use grouped::{Group, GroupedRows, LowRank};
pub use hadamard::Modulation;
pub use khatri_rao::{KhatriRao, KhatriRaoGradients};
pub use kron::Kron;
pub use levels::Levels;
pub use mapped::{MappedFile, Region};
pub use matmul::{Mat, Onto, matmul, multiplied};
pub use norm::{Moments, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
pub use number_format::NumberFormat;
pub use pairs::PairMaps;
pub use quantisation::Quantisation;
pub use quantised::{NotFinite, QuantisedMatrix};
pub use real::Real;
pub use reflection::RankOneBlocks;
pub use rotary::{Turn, turn_pairs};
pub use rotation::BlockDiagonal;
pub use shards::{add_shard, fold_blocks, unfold_blocks};
pub use sigmoid::{relu, relu_backward, sigmoid, sigmoid_backward, tanh, tanh_backward};
pub use silu::{silu, silu_backward};
pub use softmax::{softmax, softmax_backward};
pub use sparse::SparseDelta;
pub use squares::{scale, sum_of_squares};
pub use sums::column_sums;
pub use updated::low_rank_updated;
pub use waves::{PlaneWaves, Tokens};

/// Panics with both lengths unless `found` has the length that the other arguments ask for.
#[track_caller]
fn expect_len<T>(name: &str, found: &[T], expected: usize) {
    let found = found.len();
    assert!(
        found == expected,
        "{name}: found {found} numbers, expected {expected}"
    );
}

/// Rows of a `[rows, width]` array; panics unless `data` divides into them.
#[track_caller]
fn expect_rows<T>(name: &str, data: &[T], width: usize) -> usize {
    let len = data.len();
    assert!(
        width > 0,
        "{name}: found rows of width 0, expected at least 1"
    );
    assert!(
        len.is_multiple_of(width),
        "{name}: found {len} numbers, expected a multiple of the width {width}"
    );
    len / width
}
