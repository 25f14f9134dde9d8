//! How alike the spaces are that two updates read from and write to.
//!
//! ```text
//! phi(a, b; i, j) = |U_a,i^T U_b,j|_F^2 / min(i, j)
//! ```
//!
//! between the i and j leading singular directions (Hu et al. 2021, arXiv:2106.09685, section 7.2,
//! equation 4), 1 where one space holds the other and 0 where they are orthogonal; and the principal
//! angles between the whole spaces. On the left of what an update writes (U), on the right of what it
//! reads (V). Directions of singular values below rounding do not count.

use engraft_linalg::{Matrix, principal_angles};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::factorise::decomposed;
use crate::strips::common_shape;
use crate::update::Update;

/// Likeness of two spaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spaces {
    /// phi of the i + 1 leading directions of the first and the j + 1 of the second, at `[i][j]`.
    pub phi: Vec<Vec<f64>>,
    /// Principal angles in radians, in non-decreasing order.
    pub angles: Vec<f64>,
}

/// Likeness of two updates of one module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subspaces {
    /// Of their left singular directions.
    pub left: Spaces,
    /// Of their right singular directions.
    pub right: Spaces,
}

impl Spaces {
    /// Of orthonormal columns, leading ones first.
    fn of(a: &Matrix, b: &Matrix) -> Result<Self> {
        if a.cols() == 0 || b.cols() == 0 {
            return Ok(Self {
                phi: vec![Vec::new(); a.cols()],
                angles: Vec::new(),
            });
        }
        let overlap = a.transpose_matmul(b)?;
        let mut phi: Vec<Vec<f64>> = Vec::with_capacity(a.cols());
        // Sums of squares over the rectangles from the first entry.
        let mut above = vec![0.0; b.cols()];
        for i in 0..a.cols() {
            let mut row = 0.0;
            let line = above.iter_mut().enumerate().map(|(j, sum)| {
                row += overlap.get(i, j).powi(2);
                *sum += row;
                (*sum / (i.min(j) + 1) as f64).min(1.0)
            });
            phi.push(line.collect());
        }
        Ok(Self {
            phi,
            angles: principal_angles(a, b)?,
        })
    }

    /// phi of the whole spaces, 0 where one is empty.
    #[must_use]
    pub fn similarity(&self) -> f64 {
        let last = self.phi.last().and_then(|row| row.last());
        last.copied().unwrap_or(0.0)
    }
}

/// Likeness of the spaces of two updates, of at most `directions` each. `base`: W, for updates that are
/// relative to it.
///
/// # Errors
/// Updates of different shapes, a missing base, NaN or infinite numbers.
pub fn subspaces(
    a: &Update,
    b: &Update,
    directions: usize,
    base: Option<&[f32]>,
) -> Result<Subspaces> {
    common_shape(&[a, b])?;
    let bases = |update: &Update| -> Result<(Matrix, Matrix)> {
        let all = decomposed(update, base)?;
        let rank = super::rank(&all.s, all.u.rows().max(all.vt.cols()), update);
        let kept = 0..rank.min(directions);
        let right = all.vt.transpose().columns(kept.clone())?;
        Ok((all.u.columns(kept)?, right))
    };
    let (a, b) = (bases(a)?, bases(b)?);
    Ok(Subspaces {
        left: Spaces::of(&a.0, &b.0)?,
        right: Spaces::of(&a.1, &b.1)?,
    })
}

#[cfg(test)]
mod tests {
    use engraft_linalg::svd;
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense_of, low_rank, matrix};
    use crate::update::Factors;

    proptest! {
        #[test]
        fn phi_is_as_defined(m in 3usize..9, n in 3usize..9, r in 1usize..4, q in 1usize..4, seed: u64) {
            let (a, b) = (low_rank(m, n, r, seed), low_rank(m, n, q, seed ^ 1));
            let found = subspaces(&a, &b, 9, None).unwrap();
            let (u, v) = (svd(&dense_of(&a)).unwrap().u, svd(&dense_of(&b)).unwrap().u);
            for i in 1..=r {
                for j in 1..=q {
                    let overlap = u.columns(0..i).unwrap().transpose_matmul(&v.columns(0..j).unwrap()).unwrap();
                    let expected = overlap.frobenius_norm().powi(2) / i.min(j) as f64;
                    prop_assert!((found.left.phi[i - 1][j - 1] - expected).abs() < 1e-6);
                }
            }
            // The whole: the mean squared cosine of the principal angles.
            let cosines: f64 = found.right.angles.iter().map(|angle| angle.cos().powi(2)).sum();
            prop_assert!((found.right.similarity() - cosines / r.min(q) as f64).abs() < 1e-9);
            prop_assert_eq!(found.right.angles.len(), r.min(q));
            let own = subspaces(&a, &a.scaled(-3.0), 9, None).unwrap();
            prop_assert!(own.left.similarity() > 1.0 - 1e-9 && own.right.similarity() > 1.0 - 1e-9);
        }
    }

    #[test]
    fn shared_and_orthogonal_spaces() {
        let a = matrix(2, 6, 1);
        let shared = |left: Matrix| Update::low_rank(Factors::new(left, a.clone()).unwrap());
        let e = |from: usize| Matrix::from_fn(5, 2, |i, j| f64::from(u8::from(i == from + j)));
        let found = subspaces(&shared(e(0)), &shared(e(2)), 9, None).unwrap();
        assert!(found.left.similarity() < 1e-12 && found.right.similarity() > 1.0 - 1e-12);
        let nothing = subspaces(&Update::zero(5, 6), &shared(e(0)), 9, None).unwrap();
        assert_eq!(
            (nothing.left.similarity(), nothing.left.angles.len()),
            (0.0, 0)
        );
        assert!(subspaces(&Update::zero(5, 6), &Update::zero(6, 6), 1, None).is_err());
    }
}
