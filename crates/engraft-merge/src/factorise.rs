//! An update as LoRA of a chosen rank or energy.
//!
//! With dW = U S V^T, B = U_r S_r and A = V_r^T are the factors of rank r nearest to dW in the
//! Frobenius norm (Eckart and Young 1936); what they leave out has the norm
//! `sqrt(sum_{i > r} s_i^2)`.

use std::collections::BTreeMap;

use engraft_linalg::{Matrix, Svd, leading_svd, svd};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::update::{Dense, Factors, Update};

/// How many singular triples to keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rank {
    /// So many.
    Fixed(usize),
    /// The fewest, at least one, whose squared singular values add up to this fraction of all.
    Energy(f64),
}

/// dW ~ B A.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// B: `[out, rank]`, the singular values within.
    pub left: Matrix,
    /// A: `[rank, in]`, with orthonormal rows where they are not zero.
    pub right: Matrix,
    /// |dW - B A| / |dW| in the Frobenius norm, 0 for an update that is zero.
    pub error: f64,
    /// |dW|.
    pub norm: f64,
}

impl Lora {
    /// The rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.left.cols()
    }

    /// What to report of it.
    #[must_use]
    pub fn fit(&self) -> Fit {
        Fit {
            rank: self.rank(),
            norm: self.norm,
            error: self.error,
        }
    }

    /// As an update.
    ///
    /// # Errors
    /// None: the factors fit.
    pub fn into_update(self) -> Result<Update> {
        Ok(Update::low_rank(Factors::new(self.left, self.right)?))
    }
}

/// How well one module was factorised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Rank of the factors.
    pub rank: usize,
    /// |dW|.
    pub norm: f64,
    /// |dW - B A| / |dW|.
    pub error: f64,
}

/// How well the modules of an adapter were factorised.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Fits {
    /// By module.
    pub modules: BTreeMap<String, Fit>,
}

impl Fits {
    /// Takes another module in.
    pub fn add(&mut self, module: impl Into<String>, fit: Fit) {
        self.modules.insert(module.into(), fit);
    }

    /// sqrt(sum |dW|^2) over the modules.
    #[must_use]
    pub fn norm(&self) -> f64 {
        root_of_squares(self.modules.values().map(|fit| fit.norm))
    }

    /// sqrt(sum |dW - B A|^2) / sqrt(sum |dW|^2) over the modules, 0 where all are zero.
    #[must_use]
    pub fn error(&self) -> f64 {
        let errors = self.modules.values().map(|fit| fit.error * fit.norm);
        relative(root_of_squares(errors), self.norm())
    }
}

/// dW of one module as factors. `base`: W, for an update that is relative to it. Updates of low rank
/// are decomposed in their factors, others in full where the energy is asked, and by their leading
/// triples where the rank is.
///
/// # Errors
/// A rank that the matrix cannot have, a fraction outside 0 to 1, a missing base, NaN or infinite
/// numbers.
pub fn factorise(update: &Update, rank: Rank, base: Option<&[f32]>) -> Result<Lora> {
    let (rows, columns) = update.known_shape()?;
    let side = rows.min(columns);
    match rank {
        Rank::Fixed(rank) if rank == 0 || rank > side => {
            return Err(Error::input(format!(
                "rank {rank} for a weight of {rows}x{columns}: choose one from 1 to {side}"
            )));
        }
        Rank::Energy(fraction) if !(fraction > 0.0 && fraction <= 1.0) => {
            return Err(Error::input(format!(
                "energy {fraction}: choose a fraction above 0 and up to 1"
            )));
        }
        _ => {}
    }
    if update.is_low_rank() {
        let all = decomposed(update, base)?;
        let norm = all.truncation_error(0)?;
        let kept = kept(&all, rank);
        let error = all.truncation_error(kept.min(all.s.len()))?;
        return lora(all, kept, error, norm);
    }
    let dense = update.to_dense(base)?;
    let (triples, kept) = match rank {
        Rank::Fixed(rank) => {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            (leading_svd(&dense.view()?, rank, &mut rng)?, rank)
        }
        Rank::Energy(_) => {
            let all = svd(&dense.to_matrix()?)?;
            let kept = kept(&all, rank);
            (all, kept)
        }
    };
    let norm = dense.norm();
    let triples = triples.truncated(kept)?;
    let error = residual(&dense, &triples)?;
    lora(triples, kept, error, norm)
}

/// All singular triples of dW: those of its factors where it is of low rank, else those of the
/// matrix. At least one, of the singular value 0 where dW is zero.
///
/// # Errors
/// A missing base, NaN or infinite numbers.
pub fn decomposed(update: &Update, base: Option<&[f32]>) -> Result<Svd> {
    let (rows, columns) = update.known_shape()?;
    match &update.low_rank {
        Some(factors) if update.is_low_rank() && factors.rank() > 0 => factors.svd(),
        _ if update.is_low_rank() => Ok(Svd {
            u: Matrix::from_fn(rows, 1, |i, _| f64::from(u8::from(i == 0))),
            s: vec![0.0],
            vt: Matrix::from_fn(1, columns, |_, j| f64::from(u8::from(j == 0))),
        }),
        _ => Ok(svd(&update.to_dense(base)?.to_matrix()?)?),
    }
}

/// How many triples a choice of the rank keeps: the first k with sum_{i <= k} s_i^2 >= fraction
/// times the whole sum.
fn kept(all: &Svd, rank: Rank) -> usize {
    match rank {
        Rank::Fixed(rank) => rank,
        Rank::Energy(fraction) => {
            // Relative to the largest, so that no square overflows or vanishes.
            let largest = all.s[0].max(f64::MIN_POSITIVE);
            let sums = all.s.iter().scan(0.0, |sum, s| {
                *sum += (s / largest).powi(2);
                Some(*sum)
            });
            let sums: Vec<f64> = sums.collect();
            let cutoff = fraction * sums[sums.len() - 1];
            sums.partition_point(|sum| *sum < cutoff) + 1
        }
    }
}

/// The factors of so many triples, with columns and rows of zeros where there are fewer.
fn lora(triples: Svd, rank: usize, error: f64, norm: f64) -> Result<Lora> {
    let Svd { u, s, vt } = triples;
    let own = s.len();
    let left = Matrix::from_fn(u.rows(), rank, |i, k| match k < own {
        true => u.get(i, k) * s[k],
        false => 0.0,
    });
    let right = Matrix::from_fn(rank, vt.cols(), |k, j| match k < own {
        true => vt.get(k, j),
        false => 0.0,
    });
    Ok(Lora {
        left,
        right,
        error: relative(error, norm),
        norm,
    })
}

/// |D - U S V^T|, row by row.
fn residual(dense: &Dense, triples: &Svd) -> Result<f64> {
    let left = triples.u.scale_columns(&triples.s)?;
    let mut squares = 0.0;
    const ROWS: usize = 64;
    for (at, strip) in dense.data.chunks(ROWS * dense.columns).enumerate() {
        let rows = strip.len() / dense.columns;
        let part = Matrix::from_fn(rows, left.cols(), |i, k| left.get(at * ROWS + i, k));
        let near = part.matmul(&triples.vt)?;
        let both = strip.iter().zip(near.as_slice());
        squares += both.map(|(x, y)| (f64::from(*x) - y).powi(2)).sum::<f64>();
    }
    Ok(squares.sqrt())
}

/// part / whole, 0 for 0 / 0.
pub(crate) fn relative(part: f64, whole: f64) -> f64 {
    match whole > 0.0 {
        true => part / whole,
        false => 0.0,
    }
}

fn root_of_squares(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::hypot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense_of, distance, low_rank, matrix};

    proptest! {
        #[test]
        fn factors_and_matrix_give_the_same(m in 1usize..9, n in 1usize..9, r in 1usize..5, seed: u64, part in 0.0..1.0f64) {
            let update = low_rank(m, n, r, seed);
            let dense = Update::dense(update.to_dense(None).unwrap());
            let rank = 1 + (part * (m.min(n) - 1) as f64).round() as usize;
            for choice in [Rank::Fixed(rank), Rank::Energy(1.0 - 0.9 * part)] {
                let thin = factorise(&update, choice, None).unwrap();
                let whole = factorise(&dense, choice, None).unwrap();
                prop_assert!((thin.error - whole.error).abs() < 1e-5);
                prop_assert!((thin.norm - whole.norm).abs() <= 1e-5 * (1.0 + thin.norm));
                let near = thin.clone().into_update().unwrap();
                let error = distance(&dense_of(&near), &dense_of(&update));
                prop_assert!((error - thin.error).abs() < 1e-6, "{error} {}", thin.error);
                match choice {
                    Rank::Fixed(rank) => prop_assert_eq!((thin.rank(), whole.rank()), (rank, rank)),
                    Rank::Energy(f) => prop_assert!(thin.error.powi(2) <= 1.0 - f + 1e-12),
                }
            }
            let exact = factorise(&update, Rank::Fixed(m.min(n)), None).unwrap();
            prop_assert!(exact.error < 1e-12);
        }
    }

    #[test]
    fn energy_is_the_first_sum_that_reaches_the_cutoff() {
        // Squares 16, 4, 4, 1: sums 16, 20, 24, 25.
        let diagonal = Matrix::from_diagonal(&[4.0, 2.0, 2.0, 1.0]);
        let update = Update::low_rank(Factors::new(diagonal, Matrix::identity(4)).unwrap());
        for (fraction, rank) in [
            (0.01, 1),
            (0.64, 1),
            (0.65, 2),
            (0.8, 2),
            (0.96, 3),
            (1.0, 4),
        ] {
            let lora = factorise(&update, Rank::Energy(fraction), None).unwrap();
            assert_eq!(lora.rank(), rank, "{fraction}");
        }
    }

    #[test]
    fn updates_that_scale_the_base() {
        let base: Vec<f32> = (0..12).map(|x| x as f32 - 5.0).collect();
        let update = Update {
            rows: Some(vec![1.0, 0.5, -1.0]),
            ..Update::zero(3, 4)
        };
        assert!(factorise(&update, Rank::Fixed(2), None).is_err());
        let lora = factorise(&update, Rank::Fixed(3), Some(&base)).unwrap();
        assert!(lora.error < 1e-6);
    }

    #[test]
    fn totals_weigh_modules_by_their_norm() {
        let mut fits = Fits::default();
        let (rank, norm) = (1, 3.0);
        fits.add(
            "a",
            Fit {
                rank,
                norm,
                error: 0.5,
            },
        );
        fits.add(
            "b",
            Fit {
                rank,
                norm: 4.0,
                error: 0.5,
            },
        );
        assert!((fits.norm() - 5.0).abs() < 1e-15 && (fits.error() - 0.5).abs() < 1e-15);
        assert_eq!(Fits::default().error(), 0.0);
    }

    #[test]
    fn ranks_that_cannot_be() {
        let update = Update::low_rank(Factors::new(matrix(3, 1, 1), matrix(1, 5, 2)).unwrap());
        let error = factorise(&update, Rank::Fixed(4), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rank 4 for a weight of 3x5: choose one from 1 to 3"
        );
        for rank in [
            Rank::Fixed(0),
            Rank::Energy(0.0),
            Rank::Energy(1.5),
            Rank::Energy(f64::NAN),
        ] {
            assert!(factorise(&update, rank, None).is_err());
        }
        let zero = factorise(&Update::zero(3, 5), Rank::Energy(0.9), None).unwrap();
        assert_eq!((zero.rank(), zero.error, zero.norm), (1, 0.0, 0.0));
    }
}
