//! One head of attention and what a task works in.

use super::{Attention, BLOCK};
use crate::Real;
use crate::product::{Extent, Strided, multiply_add};

/// One head of one sequence; slices start at its first number.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    pub(super) shape: Attention,
    pub(super) q: &'a [T],
    pub(super) k: &'a [T],
    pub(super) v: &'a [T],
    /// Its numbers and the distance of their rows.
    pub(super) mask: Option<(&'a [T], usize)>,
}

impl<T: Real> Head<'_, T> {
    /// Keys that some of the queries before `end` see.
    pub(super) fn seen(&self, end: usize) -> usize {
        let Attention {
            queries,
            keys,
            causal,
            ..
        } = self.shape;
        if causal { end + keys - queries } else { keys }
    }

    /// `scale q k^T + mask` for rows of queries from `start` on, as far as the query sees.
    #[inline(always)]
    pub(super) fn scores<const FUSED: bool>(
        &self,
        start: usize,
        rows: usize,
        k_t: &[T],
        scores: &mut [T],
    ) {
        let Attention {
            heads,
            width,
            keys,
            scale,
            ..
        } = self.shape;
        let seen = self.seen(start + rows);
        scores.fill(T::ZERO);
        let q = Strided {
            data: &self.q[start * heads * width..],
            row: heads * width,
            column: 1,
        };
        let extent = Extent {
            m: rows,
            k: width,
            n: seen,
        };
        multiply_add::<T, FUSED>(extent, q, (k_t, keys), (&mut *scores, seen));
        let scale = T::from_f64(scale);
        for (i, row) in (start..).zip(scores.chunks_exact_mut(seen)) {
            let row = &mut row[..self.seen(i + 1)];
            match self.mask {
                None => row.iter_mut().for_each(|x| *x *= scale),
                Some((mask, distance)) => {
                    for (x, &mask) in row.iter_mut().zip(&mask[i * distance..]) {
                        *x = x.mul_add::<FUSED>(scale, mask);
                    }
                }
            }
        }
    }
}

/// What one task works in.
pub(super) struct Work<T> {
    /// `[width, keys]`.
    pub(super) k_t: Vec<T>,
    /// `[width, keys]`; empty in a forward pass.
    pub(super) v_t: Vec<T>,
    /// A block of scores.
    pub(super) p: Vec<T>,
    /// A block of their gradients; empty in a forward pass.
    pub(super) gp: Vec<T>,
}

impl<T: Real> Work<T> {
    pub(super) fn new(shape: &Attention) -> Self {
        Self {
            k_t: vec![T::ZERO; shape.width * shape.keys],
            v_t: Vec::new(),
            p: vec![T::ZERO; shape.queries.min(BLOCK) * shape.keys],
            gp: Vec::new(),
        }
    }

    pub(super) fn transpose_keys(&mut self, head: Head<'_, T>) {
        transpose_head(head.k, head.shape, &mut self.k_t);
    }

    pub(super) fn transpose_values(&mut self, head: Head<'_, T>) {
        self.v_t.resize(self.k_t.len(), T::ZERO);
        self.gp.resize(self.p.len(), T::ZERO);
        transpose_head(head.v, head.shape, &mut self.v_t);
    }
}

/// The transpose of the keys or values of one head, `[width, keys]`.
fn transpose_head<T: Real>(x: &[T], shape: Attention, out: &mut [T]) {
    let Attention {
        key_heads,
        keys,
        width,
        ..
    } = shape;
    for (j, row) in x.chunks(key_heads * width).take(keys).enumerate() {
        for (i, &value) in row[..width].iter().enumerate() {
            out[i * keys + j] = value;
        }
    }
}
