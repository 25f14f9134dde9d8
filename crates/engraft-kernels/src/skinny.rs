//! Products with one short side, as low-rank updates have: nothing is packed, the short operand stays
//! in the first cache.

use std::borrow::Cow;

use crate::Real;
use crate::matmul::Mat;
use crate::parallel::{for_each, rows_per_task};
use crate::product::{Extent, Strided, accumulate};

/// The longest short side: one AVX-512 vector in f32.
const SHORT: usize = 16;

/// Multiply-adds from which the product is worth its own loops.
const WORTH: usize = 1 << 16;

/// Inner lengths of one pass over a wide operand: its rows stay in the second cache.
const PASS: usize = 64;

/// Columns of one task where rows are few.
const COLUMNS: usize = 192;

/// Which side of a product is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// Few rows of the result: h^T g.
    Rows,
    /// Few terms: h B.
    Inner,
    /// Few columns of the result: x A, x^T h.
    Columns,
}

impl Short {
    /// The short side of `[m, k] x [k, n]`, if there is one and the product is worth it.
    pub fn side<T>(a: &Mat<'_, T>, b: &Mat<'_, T>) -> Option<Self> {
        let (m, k, n) = (a.rows, a.columns, b.columns);
        if m.saturating_mul(k).saturating_mul(n) < WORTH {
            return None;
        }
        match (m, k, n) {
            (_, 0, _) => None,
            (_, _, ..=SHORT) => Some(Self::Columns),
            (_, ..=SHORT, _) => Some(Self::Inner),
            (..=SHORT, _, _) if b.column == 1 => Some(Self::Rows),
            _ => None,
        }
    }

    /// `c += alpha a b`, with rows of `c` at the given distance.
    pub fn add<T: Real>(self, c: (&mut [T], usize), a: Mat<'_, T>, b: Mat<'_, T>, alpha: T) {
        match self {
            Self::Columns | Self::Inner => by_rows(c, a, (&rows(b, alpha), b.columns)),
            Self::Rows => {
                let few = rows(a, alpha);
                by_columns(c, Mat::new(&few, a.rows, a.columns), b);
            }
        }
    }
}

/// The rows of `alpha m`, one after the other; borrowed where they are.
fn rows<T: Real>(m: Mat<'_, T>, alpha: T) -> Cow<'_, [T]> {
    let len = m.rows * m.columns;
    if alpha == T::ONE && m.column == 1 && m.row == m.columns {
        return Cow::Borrowed(&m.data[..len]);
    }
    let at = |index: usize| m.data[index / m.columns * m.row + index % m.columns * m.column];
    (0..len).map(|index| alpha * at(index)).collect()
}

/// Rows of `c` among the tasks.
fn by_rows<T: Real>((c, stride): (&mut [T], usize), a: Mat<'_, T>, (b, n): (&[T], usize)) {
    // A row shorter than a vector takes as long as a vector.
    let chunk = rows_per_task(a.rows, a.columns * n.max(SHORT));
    let tasks = c.chunks_mut(chunk * stride).enumerate();
    for_each(tasks.take(a.rows.div_ceil(chunk)), |(task, c)| {
        let start = task * chunk;
        let extent = Extent {
            m: chunk.min(a.rows - start),
            k: a.columns,
            n,
        };
        let a = Strided {
            data: &a.data[start * a.row..],
            row: a.row,
            column: a.column,
        };
        accumulate(extent, a, (b, n), (c, stride));
    });
}

/// Columns of `c` among the tasks; the terms in passes.
fn by_columns<T: Real>((c, stride): (&mut [T], usize), a: Mat<'_, T>, b: Mat<'_, T>) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    let tasks = n.div_ceil(COLUMNS);
    let mut blocks = vec![T::ZERO; tasks * m * COLUMNS];
    for_each(
        blocks.chunks_mut(m * COLUMNS).enumerate(),
        |(task, block)| {
            let start = task * COLUMNS;
            let width = COLUMNS.min(n - start);
            for first in (0..k).step_by(PASS) {
                let extent = Extent {
                    m,
                    k: PASS.min(k - first),
                    n: width,
                };
                let a = Strided {
                    data: &a.data[first..],
                    row: k,
                    column: 1,
                };
                let b = (&b.data[first * b.row + start..], b.row);
                accumulate(extent, a, b, (&mut *block, COLUMNS));
            }
        },
    );
    for (task, block) in blocks.chunks(m * COLUMNS).enumerate() {
        let start = task * COLUMNS;
        let width = COLUMNS.min(n - start);
        for (i, sums) in block.chunks(COLUMNS).enumerate() {
            let row = &mut c[i * stride + start..][..width];
            row.iter_mut().zip(sums).for_each(|(c, &sum)| *c += sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};

    /// Every short side, with operands stored as read and transposed, against loops in f64.
    #[test]
    fn short_sides_agree_with_loops_on_any_threads() {
        for [m, k, n] in [[700, 301, 8], [301, 16, 257], [5, 601, 403], [900, 131, 13]] {
            let (a, b) = (narrow(&noise(m * k, 1)), narrow(&noise(k * n, 2)));
            let start = narrow(&noise(m * n, 3));
            for turned in [false, true] {
                let turn = |data: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                    let at = |i: usize| data[i % rows * columns + i / rows];
                    (0..data.len()).map(at).collect()
                };
                let stored = if turned { turn(&a, m, k) } else { a.clone() };
                let left = match turned {
                    true => Mat::new(&stored, k, m).t(),
                    false => Mat::new(&stored, m, k),
                };
                let right = Mat::new(&b, k, n);
                let side = Short::side(&left, &right).expect("a short side");
                let run = || {
                    let mut c = start.clone();
                    side.add((&mut c, n), left, right, 0.5);
                    c
                };
                let mut expected: Vec<f64> = start.iter().map(|&c| c.into()).collect();
                for (i, row) in expected.chunks_mut(n).enumerate() {
                    for (j, c) in row.iter_mut().enumerate() {
                        let terms =
                            (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j]));
                        *c += 0.5 * terms.sum::<f64>();
                    }
                }
                assert_close(&run(), &expected, |_| 2f64.powi(-23) * k as f64);
                assert_thread_independent(run);
            }
        }
    }
}
