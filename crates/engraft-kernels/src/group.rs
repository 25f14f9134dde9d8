//! Tokens that are transformed together.

use crate::Real;
use crate::fourier::Fourier;
use crate::vector::{LANES, Vector, add_columns, load_columns};

/// Tokens of a [`Group`].
pub(crate) const GROUP: usize = 2 * LANES;

/// Vectors of a group of tokens, real and imaginary: twice [`LANES`] tokens, the first half as real
/// parts.
pub(crate) struct Group<V> {
    pub(crate) re: Vec<V>,
    pub(crate) im: Vec<V>,
}

impl<V: Copy> Group<V> {
    #[inline(always)]
    pub(crate) fn new<T: Real>(len: usize) -> Self
    where
        V: Vector<T>,
    {
        Self {
            re: vec![V::splat(T::ZERO); len],
            im: vec![V::splat(T::ZERO); len],
        }
    }

    /// Reads up to `2 LANES` rows.
    #[inline(always)]
    pub(crate) fn load<T: Real>(&mut self, rows: &[T], width: usize)
    where
        V: Vector<T>,
    {
        let (first, second) = rows.split_at(rows.len().min(LANES * width));
        load_columns(first, width, &mut self.re);
        load_columns(second, width, &mut self.im);
    }

    /// Reads up to `LANES` rows as real parts; there are no imaginary ones.
    #[inline(always)]
    pub(crate) fn load_real<T: Real>(&mut self, rows: &[T], width: usize)
    where
        V: Vector<T>,
    {
        load_columns(rows, width, &mut self.re);
        self.im.fill(V::splat(T::ZERO));
    }

    /// Adds to the rows that [`load`](Self::load) reads.
    #[inline(always)]
    pub(crate) fn add_to<T: Real>(&self, rows: &mut [T], width: usize)
    where
        V: Vector<T>,
    {
        let (first, second) = rows.split_at_mut(rows.len().min(LANES * width));
        add_columns(&self.re, first, width);
        add_columns(&self.im, second, width);
    }

    /// Transforms every block of `size` vectors.
    #[inline(always)]
    pub(crate) fn forward<T: Real>(&mut self, plan: &Fourier<T>, size: usize)
    where
        V: Vector<T>,
    {
        let blocks = self.re.chunks_exact_mut(size);
        for (re, im) in blocks.zip(self.im.chunks_exact_mut(size)) {
            plan.forward(re, im);
        }
    }

    /// Transforms every block back, without the factor.
    #[inline(always)]
    pub(crate) fn inverse<T: Real>(&mut self, plan: &Fourier<T>, size: usize)
    where
        V: Vector<T>,
    {
        let blocks = self.re.chunks_exact_mut(size);
        for (re, im) in blocks.zip(self.im.chunks_exact_mut(size)) {
            plan.inverse(re, im);
        }
    }
}
