//! What an adapter changes in one module: dW exactly, as a sum of parts.
//!
//! Weights are as PyTorch has them, W: `[rows, columns]` = `[out, in]`, y = W x + b. Every part is
//! closed under linear combination, so that a merge stays in it as long as that is exact:
//!
//! ```text
//! dW = L R + S + D + diag(r) W + W diag(c),     db = d + s . b
//! ```
//!
//! with L R of low rank, S sparse, D dense, and r, c, s scalings of the base's rows, columns and bias.

mod dense;
mod factors;
mod sparse;
mod strips;

use std::ops::Range;

pub use dense::Dense;
pub use factors::{Factors, columns_beside, rows_below};
pub use sparse::{Overlap, Sparse};
pub use strips::Strips;

use crate::error::{Error, Result};

/// dW and db of one module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Update {
    /// `[out, in]`; unknown where the update is only scalings and no base was asked.
    pub shape: [Option<usize>; 2],
    /// L R.
    pub low_rank: Option<Factors>,
    /// S.
    pub sparse: Option<Sparse>,
    /// D.
    pub dense: Option<Dense>,
    /// r: diag(r) W.
    pub rows: Option<Vec<f64>>,
    /// c: W diag(c).
    pub columns: Option<Vec<f64>>,
    /// d.
    pub bias: Option<Vec<f64>>,
    /// s: s . b.
    pub bias_scale: Option<Vec<f64>>,
}

impl Update {
    /// No change of a weight of a shape.
    #[must_use]
    pub fn zero(rows: usize, columns: usize) -> Self {
        Self {
            shape: [Some(rows), Some(columns)],
            ..Self::default()
        }
    }

    /// L R.
    #[must_use]
    pub fn low_rank(factors: Factors) -> Self {
        Self {
            low_rank: Some(factors.clone()),
            ..Self::zero(factors.left.rows(), factors.right.cols())
        }
    }

    /// D.
    #[must_use]
    pub fn dense(dense: Dense) -> Self {
        Self {
            shape: [Some(dense.rows), Some(dense.columns)],
            dense: Some(dense),
            ..Self::default()
        }
    }

    /// S, in a weight of a shape.
    #[must_use]
    pub fn sparse(rows: usize, columns: usize, sparse: Sparse) -> Self {
        Self {
            sparse: Some(sparse),
            ..Self::zero(rows, columns)
        }
    }

    /// Whether dW depends on the base.
    #[must_use]
    pub fn needs_base(&self) -> bool {
        self.rows.is_some() || self.columns.is_some()
    }

    /// Whether dW is L R alone, or nothing.
    #[must_use]
    pub fn is_low_rank(&self) -> bool {
        self.sparse.is_none() && self.dense.is_none() && !self.needs_base()
    }

    /// c dW, c db.
    #[must_use]
    pub fn scaled(&self, c: f64) -> Self {
        let vector = |v: &Option<Vec<f64>>| v.as_ref().map(|v| v.iter().map(|x| c * x).collect());
        Self {
            shape: self.shape,
            low_rank: self.low_rank.as_ref().map(|part| part.scaled(c)),
            sparse: self.sparse.as_ref().map(|part| part.scaled(c)),
            dense: self.dense.as_ref().map(|part| part.scaled(c)),
            rows: vector(&self.rows),
            columns: vector(&self.columns),
            bias: vector(&self.bias),
            bias_scale: vector(&self.bias_scale),
        }
    }

    /// The sum of two: exact, part by part.
    ///
    /// # Errors
    /// Updates of weights of different shapes.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        Ok(Self {
            shape: self.common_shape(other)?,
            low_rank: both(&self.low_rank, &other.low_rank, Factors::beside)?,
            sparse: both(&self.sparse, &other.sparse, |a, b| Ok(a.plus(b)))?,
            dense: both(&self.dense, &other.dense, Dense::plus)?,
            rows: both(&self.rows, &other.rows, |a, b| vectors(a, b))?,
            columns: both(&self.columns, &other.columns, |a, b| vectors(a, b))?,
            bias: both(&self.bias, &other.bias, |a, b| vectors(a, b))?,
            bias_scale: both(&self.bias_scale, &other.bias_scale, |a, b| vectors(a, b))?,
        })
    }

    /// The shape that two updates of one weight have.
    ///
    /// # Errors
    /// Updates of weights of different shapes.
    pub fn common_shape(&self, other: &Self) -> Result<[Option<usize>; 2]> {
        let mut shape = self.shape;
        for (own, theirs) in shape.iter_mut().zip(other.shape) {
            match (*own, theirs) {
                (Some(a), Some(b)) if a != b => {
                    let [a, b] = [self.shape, other.shape].map(shown);
                    let reason = format!("updates of weights of shapes {a} and {b} do not add up");
                    return Err(Error::input(reason));
                }
                _ => *own = own.or(theirs),
            }
        }
        Ok(shape)
    }

    /// sum_i c_i dW_i.
    ///
    /// # Errors
    /// No updates, or some of different shapes.
    pub fn combination<'a>(terms: impl IntoIterator<Item = (f64, &'a Self)>) -> Result<Self> {
        let mut terms = terms.into_iter();
        let Some((c, first)) = terms.next() else {
            return Err(Error::input("a sum of no updates"));
        };
        terms.try_fold(first.scaled(c), |sum, (c, update)| {
            sum.plus(&update.scaled(c))
        })
    }

    /// (rows, columns) of the weight.
    ///
    /// # Errors
    /// Where the update does not know: it is only scalings, and wants the base.
    pub fn known_shape(&self) -> Result<(usize, usize)> {
        match self.shape {
            [Some(rows), Some(columns)] => Ok((rows, columns)),
            unknown => Err(Error::input(format!(
                "the update scales a weight of shape {}, of which only the base knows the rest: give `base`",
                shown(unknown)
            ))),
        }
    }

    /// Rows `range` of dW as numbers, row-major. `base`: the same rows of W, needed if
    /// [`needs_base`](Self::needs_base).
    ///
    /// # Errors
    /// A base that is missing.
    pub fn strip(&self, range: Range<usize>, base: Option<&[f32]>) -> Result<Vec<f32>> {
        let (_, columns) = self.known_shape()?;
        let mut strip = vec![0.0; range.len() * columns];
        Strips::new(self)?.add_to(range, base, &mut strip)?;
        Ok(strip)
    }

    /// dW^T; the bias stays.
    ///
    /// # Errors
    /// A sparse update of a weight whose shape only the base knows.
    pub fn transposed(&self) -> Result<Self> {
        let sparse = match &self.sparse {
            Some(sparse) => {
                let (rows, columns) = self.known_shape()?;
                Some(sparse.transposed(rows, columns))
            }
            None => None,
        };
        Ok(Self {
            shape: [self.shape[1], self.shape[0]],
            low_rank: self.low_rank.as_ref().map(Factors::transposed),
            sparse,
            dense: self.dense.as_ref().map(Dense::transposed),
            rows: self.columns.clone(),
            columns: self.rows.clone(),
            bias: self.bias.clone(),
            bias_scale: self.bias_scale.clone(),
        })
    }

    /// All of dW. `base`: all of W, if needed.
    ///
    /// # Errors
    /// As [`strip`](Self::strip).
    pub fn to_dense(&self, base: Option<&[f32]>) -> Result<Dense> {
        let (rows, columns) = self.known_shape()?;
        Ok(Dense {
            rows,
            columns,
            data: self.strip(0..rows, base)?,
        })
    }

    /// db; nothing where the bias stays. `base`: b, of a module that has one.
    #[must_use]
    pub fn bias_change(&self, base: Option<&[f32]>) -> Option<Vec<f64>> {
        let scaled = self.bias_scale.as_ref().zip(base).map(|(s, b)| {
            let both = s.iter().zip(b);
            both.map(|(s, b)| s * f64::from(*b)).collect::<Vec<f64>>()
        });
        match (&self.bias, scaled) {
            (Some(d), Some(s)) => Some(d.iter().zip(s).map(|(d, s)| d + s).collect()),
            (d, s) => d.clone().or(s),
        }
    }
}

/// A shape for a message, `?` where it is not known.
pub(crate) fn shown(shape: [Option<usize>; 2]) -> String {
    let side = |side: Option<usize>| side.map_or("?".to_owned(), |side| side.to_string());
    format!("{}x{}", side(shape[0]), side(shape[1]))
}

fn both<T: Clone>(
    a: &Option<T>,
    b: &Option<T>,
    add: impl Fn(&T, &T) -> Result<T>,
) -> Result<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) => add(a, b).map(Some),
        (a, b) => Ok(a.clone().or_else(|| b.clone())),
    }
}

fn vectors(a: &[f64], b: &[f64]) -> Result<Vec<f64>> {
    match a.len() == b.len() {
        true => Ok(a.iter().zip(b).map(|(a, b)| a + b).collect()),
        false => Err(Error::input(format!(
            "vectors of {} and {} numbers do not add up",
            a.len(),
            b.len()
        ))),
    }
}
