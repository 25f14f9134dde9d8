//! Tokens that are transformed together.

use crate::Real;
use crate::fourier::Fourier;
use crate::vector::{LANES, Line, Vector};

/// Tokens of a [`Group`].
pub(crate) const GROUP: usize = 2 * LANES;

/// Vectors of a group of tokens, real and imaginary: the first half of the tokens as real parts.
pub(crate) struct Group<T> {
    pub(crate) re: Vec<Line<T>>,
    pub(crate) im: Vec<Line<T>>,
}

impl<T: Real> Group<T> {
    pub(crate) fn new(len: usize) -> Self {
        let zeros = vec![Line::splat(T::ZERO); len];
        Self {
            re: zeros.clone(),
            im: zeros,
        }
    }

    /// Reads up to [`GROUP`] rows.
    pub(crate) fn load(&mut self, rows: &[T], width: usize) {
        let (first, second) = rows.split_at(rows.len().min(LANES * width));
        load_columns(first, width, &mut self.re);
        load_columns(second, width, &mut self.im);
    }

    /// Adds to the rows that [`load`](Self::load) reads.
    pub(crate) fn add_to(&self, rows: &mut [T], width: usize) {
        let (first, second) = rows.split_at_mut(rows.len().min(LANES * width));
        add_columns(&self.re, first, width);
        add_columns(&self.im, second, width);
    }

    /// Zero everywhere.
    pub(crate) fn clear(&mut self) {
        self.re.fill(Line::splat(T::ZERO));
        self.im.fill(Line::splat(T::ZERO));
    }

    /// Transforms every block of `size` vectors.
    pub(crate) fn forward(&mut self, plan: &Fourier<T>, size: usize) {
        let blocks = self.re.chunks_exact_mut(size);
        for (re, im) in blocks.zip(self.im.chunks_exact_mut(size)) {
            plan.forward(re, im);
        }
    }

    /// Transforms every block back, without the factor.
    pub(crate) fn inverse(&mut self, plan: &Fourier<T>, size: usize) {
        let blocks = self.re.chunks_exact_mut(size);
        for (re, im) in blocks.zip(self.im.chunks_exact_mut(size)) {
            plan.inverse(re, im);
        }
    }

    /// The vector at a place.
    #[inline(always)]
    pub(crate) fn at<V: Vector<T>>(&self, place: usize) -> (V, V) {
        (V::load(&self.re[place].0), V::load(&self.im[place].0))
    }

    /// Writes the vector at a place.
    #[inline(always)]
    pub(crate) fn set<V: Vector<T>>(&mut self, place: usize, (re, im): (V, V)) {
        re.store(&mut self.re[place].0);
        im.store(&mut self.im[place].0);
    }
}

vectors! {
    /// Reads up to [`LANES`] rows: they become lanes, their columns vectors. Missing rows and columns
    /// are zero.
    fn load_columns<T, V>(rows: &[T], width: usize, to: &mut [Line<T>]) {
        let whole = to.len().min(width) / LANES * LANES;
        let (blocks, rest) = to.split_at_mut(whole);
        for (at, block) in blocks.chunks_exact_mut(LANES).enumerate() {
            let start = at * LANES;
            let mut vectors = [V::splat(T::ZERO); LANES];
            for (vector, row) in vectors.iter_mut().zip(rows.chunks_exact(width)) {
                *vector = V::load(row[start..].first_chunk().expect("a whole block"));
            }
            V::transpose(&mut vectors);
            for (vector, line) in vectors.iter().zip(block) {
                vector.store(&mut line.0);
            }
        }
        for (column, line) in rest.iter_mut().enumerate() {
            line.0 = [T::ZERO; LANES];
            if whole + column < width {
                for (lane, row) in line.0.iter_mut().zip(rows.chunks_exact(width)) {
                    *lane = row[whole + column];
                }
            }
        }
    }
}

vectors! {
    /// Adds vectors to the columns that [`load_columns`] reads; what lies beyond is dropped.
    fn add_columns<T, V>(from: &[Line<T>], rows: &mut [T], width: usize) {
        let count = from.len().min(width);
        let whole = count / LANES * LANES;
        for (at, block) in from[..whole].chunks_exact(LANES).enumerate() {
            let start = at * LANES;
            let mut vectors = [V::splat(T::ZERO); LANES];
            for (vector, line) in vectors.iter_mut().zip(block) {
                *vector = V::load(&line.0);
            }
            V::transpose(&mut vectors);
            for (vector, row) in vectors.iter().zip(rows.chunks_exact_mut(width)) {
                let row = row[start..].first_chunk_mut().expect("a whole block");
                V::load(row).plus(*vector).store(row);
            }
        }
        for (column, line) in from[..count].iter().enumerate().skip(whole) {
            for (&lane, row) in line.0.iter().zip(rows.chunks_exact_mut(width)) {
                row[column] += lane;
            }
        }
    }
}
