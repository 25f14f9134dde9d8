//! Merging in the singular vectors of updates.
//!
//! Updates of low rank stay in their factors throughout: no matrix of the weight's size is made.

mod cat;
mod iso;
mod knots;
#[cfg(test)]
pub(crate) mod testing;
mod tsv;

use engraft_linalg::{Matrix, Svd, svd};

pub use cat::{cat, compact};
pub use iso::{iso_c, iso_cts};
pub use knots::{Aligned, knots};
pub use tsv::{Keep, tsv};

use crate::error::Result;
use crate::update::{Dense, Factors, Update, columns_beside, rows_below};

/// Relative rounding error of the numbers of updates: factors are in double precision, all else in
/// single.
fn epsilon(updates: &[&Update]) -> f64 {
    match updates.iter().all(|update| update.is_low_rank()) {
        true => f64::EPSILON,
        false => f64::from(f32::EPSILON),
    }
}

/// The triples whose singular values are above rounding: max(m, n) epsilon times `scale`, the norm of
/// what was added up to the matrix.
fn significant(all: &Svd, scale: f64, epsilon: f64) -> usize {
    let threshold = all.u.rows().max(all.vt.cols()) as f64 * epsilon * scale;
    all.s.partition_point(|s| *s > threshold)
}

/// Triples of several matrices side by side, and their singular vectors made orthonormal together.
#[derive(Default)]
struct Collected {
    u: Vec<Matrix>,
    s: Vec<f64>,
    vt: Vec<Matrix>,
}

impl Collected {
    /// The `count` leading triples.
    fn add(&mut self, all: &Svd, count: usize) -> Result<()> {
        if count > 0 {
            let kept = all.truncated(count)?;
            self.u.push(kept.u);
            self.s.extend(kept.s);
            self.vt.push(kept.vt);
        }
        Ok(())
    }

    /// Q_U diag(s) Q_V^T; nothing without triples.
    fn product(&self, s: &[f64]) -> Result<Option<Factors>> {
        if s.is_empty() {
            return Ok(None);
        }
        let left = nearest_isometry(&columns_beside(&self.u.iter().collect::<Vec<_>>())?)?;
        let right = nearest_isometry(&rows_below(&self.vt.iter().collect::<Vec<_>>())?)?;
        Ok(Some(Factors::new(left.scale_columns(s)?, right)?))
    }
}

/// P Q^T of M = P S Q^T over the singular values that are not zero: the orthogonal factor of the polar
/// decomposition, and where M has no full rank the one that vanishes where M does, so that the
/// result does not hang on an arbitrary choice of singular vectors.
fn nearest_isometry(matrix: &Matrix) -> Result<Matrix> {
    let all = svd(matrix)?;
    // Singular vectors that only rounding tells apart count as equal: their difference is the root
    // of the rounding error of an inner product.
    let threshold = 1e-7 * all.s[0];
    let kept = all.truncated(all.s.partition_point(|s| *s > threshold).max(1))?;
    Ok(kept.u.matmul(&kept.vt)?)
}

/// An update of these factors: as factors where all updates that it came from have them, else as a
/// matrix.
fn update_of(factors: Option<Factors>, updates: &[&Update]) -> Result<Update> {
    let (rows, columns) = crate::strips::common_shape(updates)?;
    match factors {
        None => Ok(Update::zero(rows, columns)),
        Some(factors) if updates.iter().all(|update| update.is_low_rank()) => {
            Ok(Update::low_rank(factors))
        }
        Some(factors) => {
            let data = factors.product()?.to_f32();
            Ok(Update::dense(Dense::new(rows, columns, data)?))
        }
    }
}

/// The updates of the bias alone, averaged: what methods for matrices do with vectors.
fn mean_of_biases(updates: &[&Update]) -> Result<Update> {
    let share = 1.0 / updates.len().max(1) as f64;
    let biases: Vec<Update> = updates.iter().map(|update| bias_alone(update)).collect();
    Update::combination(biases.iter().map(|update| (share, update)))
}

/// An update without that of the weight.
fn bias_alone(update: &Update) -> Update {
    Update {
        shape: update.shape,
        bias: update.bias.clone(),
        bias_scale: update.bias_scale.clone(),
        ..Update::default()
    }
}
