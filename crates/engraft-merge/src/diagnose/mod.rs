//! What adapters are like, and how like each other.
//!
//! All take one module after the other, its update in every adapter at once, so that a set of
//! adapters is never in memory as a whole. The results are plain data to be written and drawn.

mod diagnosis;
mod interference;
mod similarity;
mod spectrum;
mod subspace;

pub use diagnosis::Diagnosis;
pub use interference::{Conflicts, Interference, Sums};
pub use similarity::{Similarity, inner_products};
pub use spectrum::{Spectra, Spectrum};
pub use subspace::{Spaces, Subspaces, subspaces};

use crate::update::Update;

/// A number for each two adapters, row by row.
pub type Square = Vec<Vec<f64>>;

/// The lower triangle above the diagonal.
fn mirror(square: &mut Square) {
    for i in 1..square.len() {
        let (above, below) = square.split_at_mut(i);
        let both = above.iter_mut().zip(&below[0]);
        both.for_each(|(row, x)| row[i] = *x);
    }
}

/// How many singular values are above the rounding of the update they come from.
fn rank(values: &[f64], side: usize, update: &Update) -> usize {
    let epsilon = match update.is_low_rank() {
        true => f64::EPSILON,
        false => f64::from(f32::EPSILON),
    };
    let largest = values.first().copied().unwrap_or(0.0);
    let threshold = side as f64 * epsilon * largest;
    values.partition_point(|s| *s > threshold)
}
