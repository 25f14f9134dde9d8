//! Products with a block-diagonal matrix, the activation form and the weight form of OFT and BOFT.

use crate::parallel::{chunks_mut, for_each, reduce, rows_per_partial, rows_per_task};
use crate::product::{Extent, Strided, accumulate, transpose};
use crate::{Real, expect_len, expect_rows};

/// `diag(R_1, ..., R_n)` of `n` square blocks of side `b`; arrays hold `[n, b, b]`.
///
/// No `d x d` matrix is formed (`d = n b`): a product costs `tokens d b` multiply-adds and one pass
/// over its operands (Qiu et al., arXiv 2306.07280, section 3.3). The blocks need not be orthogonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDiagonal {
    /// Number of blocks `n`.
    pub blocks: usize,
    /// Side `b` of a block.
    pub size: usize,
}

/// Rows and columns of the tiles that pass through the blocks while they stay in the first cache.
const ROWS: usize = 64;
const COLUMNS: usize = 64;

/// Work of reading and writing one number, in the unit of [`rows_per_task`].
const TRAFFIC: usize = 16;

impl BlockDiagonal {
    /// Side of the whole matrix, `d = n b`.
    pub fn width(self) -> usize {
        self.blocks * self.size
    }

    /// `y = x diag(R)`, with `x` and `y` of `[tokens, d]`: `y[t, k b + j] = sum_i x[t, k b + i] R_k[i, j]`.
    ///
    /// # Panics
    ///
    /// Unless `r` has `n b b` numbers and `x` and `y` have one length, a multiple of `d`.
    pub fn apply<T: Real>(self, x: &[T], r: &[T], y: &mut [T]) {
        let tokens = expect_rows("x", x, self.width());
        expect_len("r", r, self.width() * self.size);
        expect_len("y", y, x.len());
        let task = rows_per_task(tokens, self.cost()).next_multiple_of(ROWS);
        let chunk = task * self.width();
        for_each(x.chunks(chunk).zip(y.chunks_mut(chunk)), |(x, y)| {
            forward(self, x, r, y)
        });
    }

    /// Gradient of the input alone: `gx = gy diag(R)^T`.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward_input<T: Real>(self, gy: &[T], r: &[T], gx: &mut [T]) {
        expect_len("r", r, self.width() * self.size);
        self.apply(gy, &self.transposed(r), gx);
    }

    /// Gradients of [`apply`](Self::apply) in one pass: that of the blocks, `[n, b, b]`, which is
    /// `gR_k[i, j] = sum_t x[t, k b + i] gy[t, k b + j]`, and that of the input where it is given
    /// `R` and a place.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward<T: Real>(self, x: &[T], gy: &[T], gx: Option<(&[T], &mut [T])>) -> Vec<T> {
        let (width, len) = (self.width(), self.width() * self.size);
        let tokens = expect_rows("x", x, width);
        expect_len("gy", gy, x.len());
        let task = rows_per_partial(tokens, 2 * self.cost()).next_multiple_of(ROWS);
        let tasks = tokens.div_ceil(task).max(1);
        let (transposed, outputs): (_, Vec<Option<&mut [T]>>) = match gx {
            Some((r, gx)) => {
                expect_len("r", r, len);
                expect_len("gx", gx, x.len());
                let chunks = chunks_mut(gx, task * width).map(Some);
                (self.transposed(r), chunks.collect())
            }
            None => (vec![T::ZERO; len], (0..tasks).map(|_| None).collect()),
        };
        reduce(tokens, task, len, outputs.into_iter(), |range, sum, gx| {
            let span = range.start * width..range.end * width;
            backward(self, &x[span.clone()], &transposed, &gy[span], gx, sum);
        })
    }

    /// `y = diag(R) w`, with `w` and `y` of `[d, columns]`.
    ///
    /// # Panics
    ///
    /// Unless `r` has `n b b` numbers and `w` and `y` have one length, a multiple of `d`.
    pub fn apply_left<T: Real>(self, r: &[T], w: &[T], y: &mut [T]) {
        let columns = expect_columns(w, self.width());
        expect_len("r", r, self.width() * self.size);
        expect_len("y", y, w.len());
        let rows = self.size * columns;
        let tasks = r
            .chunks(self.size * self.size)
            .zip(w.chunks(rows.max(1)))
            .zip(y.chunks_mut(rows.max(1)));
        for_each(tasks, |((r, w), y)| left(self.size, r, w, y));
    }

    /// Gradients of [`apply_left`](Self::apply_left): writes `gw = diag(R)^T gy` and returns
    /// `gR_k = gy_k w_k^T`, `[n, b, b]`.
    ///
    /// # Panics
    ///
    /// As [`apply_left`](Self::apply_left).
    pub fn backward_left<T: Real>(self, r: &[T], w: &[T], gy: &[T], gw: &mut [T]) -> Vec<T> {
        self.apply_left(&self.transposed(r), gy, gw);
        let columns = expect_columns(w, self.width());
        let rows = (self.size * columns).max(1);
        let mut gr = vec![T::ZERO; self.width() * self.size];
        let tasks = gr
            .chunks_mut(self.size * self.size)
            .zip(gy.chunks(rows).zip(w.chunks(rows)));
        for_each(tasks, |(gr, (gy, w))| outer_left(self.size, gy, w, gr));
        gr
    }

    /// The transposes of the blocks.
    fn transposed<T: Real>(self, r: &[T]) -> Vec<T> {
        let blocks = r.chunks_exact((self.size * self.size).max(1));
        blocks
            .flat_map(|block| transpose(block, self.size))
            .collect()
    }

    /// Work of one row.
    fn cost(self) -> usize {
        self.width() * (self.size + TRAFFIC)
    }

    /// Columns of a tile: whole blocks, `COLUMNS` if several fit.
    fn tile(self) -> usize {
        self.size * (COLUMNS / self.size).clamp(1, self.blocks)
    }
}

/// Columns of a `[d, columns]` array.
#[track_caller]
fn expect_columns<T>(w: &[T], d: usize) -> usize {
    let len = w.len();
    assert!(
        d > 0 && len.is_multiple_of(d),
        "w: found {len} numbers, expected a multiple of the {d} rows"
    );
    len / d
}

/// Copies columns `start..start + columns` of rows of `width` into a tile.
fn pack<T: Real>(x: &[T], width: usize, start: usize, columns: usize, tile: &mut [T]) {
    for (tile, row) in tile.chunks_exact_mut(columns).zip(x.chunks_exact(width)) {
        tile.copy_from_slice(&row[start..start + columns]);
    }
}

/// Undoes [`pack`].
fn unpack<T: Real>(tile: &[T], columns: usize, y: &mut [T], width: usize, start: usize) {
    for (tile, row) in tile.chunks_exact(columns).zip(y.chunks_exact_mut(width)) {
        row[start..start + columns].copy_from_slice(tile);
    }
}

/// `y = x diag(r)` on one tile of `[m, columns]`.
fn through<T: Real>(b: usize, columns: usize, x: &[T], r: &[T], y: &mut [T]) {
    y.fill(T::ZERO);
    let extent = Extent {
        m: x.len() / columns,
        k: b,
        n: b,
    };
    for (k, r) in r.chunks_exact(b * b).enumerate() {
        let x = Strided {
            data: &x[k * b..],
            row: columns,
            column: 1,
        };
        accumulate(extent, x, (r, b), (&mut y[k * b..], columns));
    }
}

fn forward<T: Real>(shape: BlockDiagonal, x: &[T], r: &[T], y: &mut [T]) {
    let (width, b, tile) = (shape.width(), shape.size, shape.tile());
    let mut tiles = vec![T::ZERO; 2 * ROWS * tile];
    for (x, y) in x.chunks(ROWS * width).zip(y.chunks_mut(ROWS * width)) {
        for (start, r) in (0..width).step_by(tile).zip(r.chunks(tile * b)) {
            let columns = tile.min(width - start);
            let len = x.len() / width * columns;
            let (xs, ys) = tiles.split_at_mut(ROWS * tile);
            pack(x, width, start, columns, &mut xs[..len]);
            through(b, columns, &xs[..len], r, &mut ys[..len]);
            unpack(&ys[..len], columns, y, width, start);
        }
    }
}

fn backward<T: Real>(
    shape: BlockDiagonal,
    x: &[T],
    transposed: &[T],
    gy: &[T],
    gx: Option<&mut [T]>,
    sum: &mut [T],
) {
    let (width, b, tile) = (shape.width(), shape.size, shape.tile());
    let mut gx = gx;
    let mut tiles = vec![T::ZERO; 3 * ROWS * tile];
    for first in (0..x.len()).step_by(ROWS * width) {
        let span = first..x.len().min(first + ROWS * width);
        let (x, gy) = (&x[span.clone()], &gy[span.clone()]);
        let blocks = transposed.chunks(tile * b).zip(sum.chunks_mut(tile * b));
        for (start, (r, sum)) in (0..width).step_by(tile).zip(blocks) {
            let columns = tile.min(width - start);
            let m = x.len() / width;
            let len = m * columns;
            let (xs, rest) = tiles.split_at_mut(ROWS * tile);
            let (gs, outs) = rest.split_at_mut(ROWS * tile);
            pack(x, width, start, columns, &mut xs[..len]);
            pack(gy, width, start, columns, &mut gs[..len]);
            let extent = Extent { m: b, k: m, n: b };
            for (k, sum) in sum.chunks_exact_mut(b * b).enumerate() {
                let x = Strided {
                    data: &xs[k * b..len],
                    row: 1,
                    column: columns,
                };
                accumulate(extent, x, (&gs[k * b..len], columns), (sum, b));
            }
            if let Some(gx) = gx.as_deref_mut() {
                through(b, columns, &gs[..len], r, &mut outs[..len]);
                unpack(&outs[..len], columns, &mut gx[span.clone()], width, start);
            }
        }
    }
}

fn left<T: Real>(b: usize, r: &[T], w: &[T], y: &mut [T]) {
    let columns = w.len() / b;
    y.fill(T::ZERO);
    let r = Strided {
        data: r,
        row: b,
        column: 1,
    };
    for start in (0..columns).step_by(4 * COLUMNS) {
        let extent = Extent {
            m: b,
            k: b,
            n: (4 * COLUMNS).min(columns - start),
        };
        accumulate(
            extent,
            r,
            (&w[start..], columns),
            (&mut y[start..], columns),
        );
    }
}

fn outer_left<T: Real>(b: usize, gy: &[T], w: &[T], sum: &mut [T]) {
    let columns = w.len() / b;
    let mut tile = vec![T::ZERO; b * COLUMNS];
    for start in (0..columns).step_by(COLUMNS) {
        let k = COLUMNS.min(columns - start);
        for (i, row) in w.chunks_exact(columns).enumerate() {
            for (j, &value) in row[start..start + k].iter().enumerate() {
                tile[j * b + i] = value;
            }
        }
        let gy = Strided {
            data: &gy[start..],
            row: columns,
            column: 1,
        };
        accumulate(Extent { m: b, k, n: b }, gy, (&tile, b), (&mut *sum, b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    /// The three products by loops over `(t, k, i, j)`: `(y, gx, g_blocks)`.
    fn reference(s: BlockDiagonal, x: &[f64], r: &[f64], gy: &[f64]) -> [Vec<f64>; 3] {
        let (d, b) = (s.width(), s.size);
        let (mut y, mut gx, mut gr) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; r.len()]);
        for t in 0..x.len() / d {
            for k in 0..s.blocks {
                for i in 0..b {
                    for j in 0..b {
                        let (row, column, e) =
                            (t * d + k * b + i, t * d + k * b + j, (k * b + i) * b + j);
                        y[column] += x[row] * r[e];
                        gx[row] += gy[column] * r[e];
                        gr[e] += x[row] * gy[column];
                    }
                }
            }
        }
        [y, gx, gr]
    }

    /// `[y, gx, g_blocks]` of `x diag(R)`.
    fn products<T: Real>(s: BlockDiagonal, x: &[T], r: &[T], gy: &[T]) -> [Vec<T>; 3] {
        let (mut y, mut gx) = (vec![T::ZERO; x.len()], vec![T::ZERO; x.len()]);
        s.apply(x, r, &mut y);
        let gr = s.backward(x, gy, Some((r, &mut gx)));
        assert_eq!(s.backward(x, gy, None), gr);
        let mut alone = vec![T::ZERO; x.len()];
        s.backward_input(gy, r, &mut alone);
        assert_eq!(alone, gx);
        [y, gx, gr]
    }

    /// The same of `diag(R)^T w` through its transpose `w^T diag(R)`.
    fn products_left<T: Real>(s: BlockDiagonal, x: &[T], r: &[T], gy: &[T]) -> [Vec<T>; 3] {
        let (d, r) = (s.width(), s.transposed(r));
        let tokens = x.len() / d;
        let (x, gy) = (transpose(x, d), transpose(gy, d));
        let (mut y, mut gx) = (vec![T::ZERO; x.len()], vec![T::ZERO; x.len()]);
        s.apply_left(&r, &x, &mut y);
        let gr = s.backward_left(&r, &x, &gy, &mut gx);
        [
            transpose(&y, tokens),
            transpose(&gx, tokens),
            s.transposed(&gr),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_loops_in_f64(tokens in 0usize..60, blocks in 1usize..9, size in 1usize..20, seed: u64) {
            let shape = BlockDiagonal { blocks, size };
            let len = tokens * shape.width();
            let (x, gy) = (narrow(&noise(len, seed)), narrow(&noise(len, !seed)));
            let r = narrow(&noise(shape.width() * size, seed ^ 7));
            let expected = reference(shape, &widen(&x), &widen(&r), &widen(&gy));
            let found = [products(shape, &x, &r, &gy), products_left(shape, &x, &r, &gy)];
            for (found, expected) in found.iter().flat_map(|found| found.iter().zip(&expected)) {
                assert_close(found, expected, |_| 2f64.powi(-24) * 2.0 * (size.max(tokens) + 1) as f64);
            }
            let (x, r, gy) = (widen(&x), widen(&r), widen(&gy));
            let found = [products(shape, &x, &r, &gy), products_left(shape, &x, &r, &gy)];
            for (found, expected) in found.iter().flat_map(|found| found.iter().zip(&expected)) {
                assert_close(found, expected, |_| 1e-14 * (size.max(tokens) + 1) as f64);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let shape = BlockDiagonal {
            blocks: 13,
            size: 9,
        };
        let len = 2003 * shape.width();
        let (x, gy, r) = (
            narrow(&noise(len, 1)),
            narrow(&noise(len, 2)),
            narrow(&noise(117 * 9, 3)),
        );
        assert_thread_independent(|| products(shape, &x, &r, &gy).concat());
    }

    #[test]
    fn nan_stays_in_its_row_and_block() {
        let shape = BlockDiagonal { blocks: 2, size: 2 };
        let x = [1.0f32, f32::NAN, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let mut y = [0.0; 8];
        shape.apply(&x, &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], &mut y);
        assert!(y[1].is_nan());
        assert_eq!(y[2..], [4.0, 3.0, 5.0, 6.0, 8.0, 7.0]);
    }

    #[test]
    #[should_panic(expected = "r: found 3 numbers, expected 8")]
    fn lengths_are_checked() {
        BlockDiagonal { blocks: 2, size: 2 }.apply(&[0.0f32; 4], &[0.0; 3], &mut [0.0; 4]);
    }
}
