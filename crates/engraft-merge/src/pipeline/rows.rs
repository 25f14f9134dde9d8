//! Matrices known by strips of rows, so that what works place by place runs in bounded memory.
//!
//! A strip is a fixed number of rows for a shape, whatever the number of threads: what is added up
//! over strips is added in their order, and does not depend on who computed them.

use std::borrow::Cow;
use std::ops::Range;

use engraft_linalg::Matrix;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::update::{Dense, Update};

/// Numbers of a strip, about: 4 MiB in single precision.
const STRIP: usize = 1 << 20;

/// A matrix that gives its rows a few at a time.
pub trait Rows: Sync {
    /// (rows, columns).
    fn shape(&self) -> (usize, usize);

    /// The numbers of some rows, row-major.
    ///
    /// # Errors
    /// Numbers that cannot be had: a base that is missing, or numbers that are not finite.
    fn strip(&self, rows: Range<usize>) -> Result<Vec<f32>>;
}

/// The update of a weight that may be relative to a base: dW with the W that it needs.
#[derive(Debug, Clone)]
pub struct OnBase<'a> {
    update: Cow<'a, Update>,
    base: Option<&'a [f32]>,
    shape: (usize, usize),
}

impl<'a> OnBase<'a> {
    /// dW on W, all of it and row-major. What of the shape the update leaves open is W's.
    ///
    /// # Errors
    /// A base that is missing though the update needs it, or one of another size.
    pub fn new(update: &'a Update, base: Option<&'a [f32]>) -> Result<Self> {
        let base = base.filter(|_| update.needs_base());
        let shape = match (update.shape, base) {
            ([Some(rows), None], Some(base)) if rows > 0 => [Some(rows), Some(base.len() / rows)],
            ([None, Some(columns)], Some(base)) if columns > 0 => {
                [Some(base.len() / columns), Some(columns)]
            }
            (shape, _) => shape,
        };
        let update = match shape == update.shape {
            true => Cow::Borrowed(update),
            false => Cow::Owned(Update {
                shape,
                ..update.clone()
            }),
        };
        let shape = update.known_shape()?;
        match base {
            Some(base) if base.len() != shape.0 * shape.1 => Err(Error::input(format!(
                "a base of {} numbers for an update of {}x{}",
                base.len(),
                shape.0,
                shape.1
            ))),
            None if update.needs_base() => Err(Error::input(
                "the update is relative to the base: give `base`",
            )),
            _ => Ok(Self {
                update,
                base,
                shape,
            }),
        }
    }

    /// <dW, dW'>: of two updates of low rank from their factors, else place by place.
    ///
    /// # Errors
    /// Updates of weights of different shapes.
    pub fn dot(&self, other: &Self) -> Result<f64> {
        match self.update.is_low_rank() && other.update.is_low_rank() {
            true => match (&self.update.low_rank, &other.update.low_rank) {
                (Some(a), Some(b)) => a.dot(b),
                _ => Ok(0.0),
            },
            false => dot(self, other),
        }
    }

    /// ‖dW‖, the root of the sum of squares.
    ///
    /// # Errors
    /// As [`dot`](Self::dot).
    pub fn norm(&self) -> Result<f64> {
        Ok(self.dot(self)?.max(0.0).sqrt())
    }

    /// dW itself.
    #[must_use]
    pub fn update(&self) -> &Update {
        &self.update
    }
}

impl Rows for OnBase<'_> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn strip(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let columns = self.shape.1;
        let base = self
            .base
            .map(|base| &base[rows.start * columns..rows.end * columns]);
        self.update.strip(rows, base)
    }
}

impl Rows for Matrix {
    fn shape(&self) -> (usize, usize) {
        Matrix::shape(self)
    }

    fn strip(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let numbers = &self.as_slice()[rows.start * self.cols()..rows.end * self.cols()];
        Ok(numbers.iter().map(|x| *x as f32).collect())
    }
}

impl Rows for Dense {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn strip(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        Ok(self.data[rows.start * self.columns..rows.end * self.columns].to_vec())
    }
}

/// Rows in one strip of a matrix with so many columns.
fn height(columns: usize) -> usize {
    (STRIP / columns.max(1)).max(1)
}

/// The strips of a shape, in order.
pub(crate) fn strips((rows, columns): (usize, usize)) -> Vec<Range<usize>> {
    let height = height(columns);
    let starts = (0..rows).step_by(height);
    starts
        .map(|start| start..(start + height).min(rows))
        .collect()
}

/// What every strip gives, in their order.
pub(crate) fn each_strip<T: Send>(
    shape: (usize, usize),
    of: impl Fn(Range<usize>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    strips(shape).into_par_iter().map(&of).collect()
}

/// <A, B>, added in double precision.
///
/// # Errors
/// Matrices of different shapes, or as [`Rows::strip`].
pub fn dot(a: &dyn Rows, b: &dyn Rows) -> Result<f64> {
    same_shape(a, b)?;
    let parts = each_strip(a.shape(), |rows| {
        let (a, b) = (a.strip(rows.clone())?, b.strip(rows)?);
        let products = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        Ok(products.sum::<f64>())
    })?;
    Ok(parts.into_iter().sum())
}

/// A matrix in which the number at each place comes from the numbers of some others there.
///
/// # Errors
/// No matrices, matrices of different shapes, or as [`Rows::strip`].
pub(crate) fn by_place(
    matrices: &[&dyn Rows],
    number: impl Fn(&[f32]) -> f64 + Sync,
) -> Result<Dense> {
    let Some(first) = matrices.first() else {
        return Err(Error::input("a merge of no matrices"));
    };
    matrices
        .iter()
        .try_for_each(|other| same_shape(*first, *other))?;
    filled(first.shape(), |rows, into| {
        let strips = matrices.iter().map(|matrix| matrix.strip(rows.clone()));
        let strips: Vec<Vec<f32>> = strips.collect::<Result<_>>()?;
        let mut here = vec![0.0; strips.len()];
        for (place, into) in into.iter_mut().enumerate() {
            let numbers = here.iter_mut().zip(&strips);
            numbers.for_each(|(here, strip)| *here = strip[place]);
            *into = number(&here) as f32;
        }
        Ok(())
    })
}

/// A matrix that is filled strip by strip.
pub(crate) fn filled(
    (rows, columns): (usize, usize),
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync,
) -> Result<Dense> {
    let mut data = vec![0.0; rows * columns];
    let strips = strips((rows, columns));
    let chunks = data.par_chunks_mut((height(columns) * columns).max(1));
    chunks
        .zip(strips)
        .try_for_each(|(into, rows)| fill(rows, into))?;
    Dense::new(rows, columns, data)
}

fn same_shape(a: &dyn Rows, b: &dyn Rows) -> Result<()> {
    match (a.shape(), b.shape()) {
        (a, b) if a == b => Ok(()),
        (a, b) => Err(Error::input(format!(
            "matrices of {}x{} and {}x{} have no places in common",
            a.0, a.1, b.0, b.1
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::testing::{close, update};

    proptest! {
        #[test]
        fn updates_of_every_form_are_their_dense_matrices(seed: u64, other: u64) {
            let base: Vec<f32> = (0..35).map(|x| x as f32 / 7.0 - 2.0).collect();
            let [a, b] = [seed, other].map(|seed| update(5, 7, seed));
            let dense = [&a, &b].map(|update| update.to_dense(Some(&base)).unwrap());
            let rows = [&a, &b].map(|update| OnBase::new(update, Some(&base)).unwrap());
            prop_assert_eq!(&rows[0].strip(1..4).unwrap(), &dense[0].data[7..28]);
            let expected: f64 = dense[0].data.iter().zip(&dense[1].data).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let scale = dense[0].norm() * dense[1].norm();
            prop_assert!((rows[0].dot(&rows[1]).unwrap() - expected).abs() <= 1e-5 * scale);
            prop_assert!((rows[0].norm().unwrap() - dense[0].norm()).abs() <= 1e-5 * dense[0].norm());
            let sum = by_place(&[&rows[0], &rows[1]], |x| f64::from(x[0]) - f64::from(x[1])).unwrap();
            close(&sum.data, &dense[0].plus(&dense[1].scaled(-1.0)).unwrap().data, 1e-6);
        }
    }

    #[test]
    fn strips_cover_every_row_once() {
        for shape in [(0, 5), (5, 0), (1, 1), (3, STRIP + 1), (2000, 1500)] {
            let rows: Vec<usize> = strips(shape).into_iter().flatten().collect();
            assert_eq!(rows, (0..shape.0).collect::<Vec<_>>());
        }
        let matrix = Matrix::from_fn(2000, 1500, |i, j| (i * 1500 + j) as f64);
        let same = by_place(&[&matrix], |x| f64::from(x[0])).unwrap();
        assert_eq!(same.data, matrix.to_f32());
        assert!(filled((0, 5), |_, _| Ok(())).unwrap().data.is_empty());
        assert!(filled((5, 0), |_, _| Ok(())).unwrap().data.is_empty());
    }

    #[test]
    fn scalings_take_their_shape_from_the_base() {
        let update = Update {
            shape: [Some(2), None],
            rows: Some(vec![1.0, 2.0]),
            ..Update::default()
        };
        let base = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let rows = OnBase::new(&update, Some(&base)).unwrap();
        assert_eq!(rows.shape(), (2, 3));
        assert_eq!(rows.strip(1..2).unwrap(), [8.0, 10.0, 12.0]);
        assert!(OnBase::new(&update, None).is_err());
        assert!(OnBase::new(&update, Some(&base[..5])).is_err());
    }
}
