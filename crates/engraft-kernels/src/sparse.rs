//! Products with a dense matrix of which a few entries are changed.

use crate::lines::{dots, turn_all};
use crate::matmul::{Mat, Onto, matmul};
use crate::parallel::{for_each, rows_per_task};
use crate::vector::LANES;
use crate::{Real, expect_len, expect_rows};

/// A sparse `[rows, columns]` matrix with `values[e]` at the places `positions[e] = i_e columns + j_e`,
/// in any order, fastest when they ascend; values at one place add up.
///
/// A product with `W + s S` is one dense product with a copy of `W` that the entries are added to:
/// the copy is made a panel of rows at a time, so that no second matrix is held, and takes less
/// than a twentieth of the product (512 tokens of 768 x 768 on one core: 0.1 of 3 ms; moving two
/// percent of entries token by token takes 3.8 ms). A few tokens are cheaper the other way.
#[derive(Debug, Clone, Copy)]
pub struct SparseDelta<'a> {
    /// Rows, the width of the input.
    pub rows: usize,
    /// Columns, the width of the output.
    pub columns: usize,
    /// Places of the entries.
    pub positions: &'a [i64],
}

/// Numbers of a panel: what the second and third cache hold.
const PANEL: usize = 1 << 20;

/// Fewest rows of a panel, so that the products with it stay products of matrices.
const PANEL_ROWS: usize = 256;

/// Copied numbers that take the time of one moved entry: 0.07 and 0.6 ns, measured on 768 x 768.
const MOVE: usize = 8;

/// Tokens of a tile of the sampled product.
const TILE: usize = 512;

impl SparseDelta<'_> {
    /// `w += s S` for `w` of `[rows, columns]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit and the positions are inside.
    pub fn add_to<T: Real>(self, values: &[T], scale: f64, w: &mut [T]) {
        expect_len("w", w, self.rows * self.columns);
        expect_len("values", values, self.positions.len());
        add(self.positions, values, T::from_f64(scale), 0, w);
    }

    /// The adjoint of [`add_to`](Self::add_to): `gv_e = s gw[i_e, j_e]`.
    ///
    /// # Panics
    ///
    /// As [`add_to`](Self::add_to).
    pub fn gather<T: Real>(self, gw: &[T], scale: f64, gv: &mut [T]) {
        expect_len("gw", gw, self.rows * self.columns);
        expect_len("gv", gv, self.positions.len());
        let scale = T::from_f64(scale);
        for (gv, &position) in gv.iter_mut().zip(self.positions) {
            *gv = gw[position as usize] * scale;
        }
    }

    /// `y += s x S`, entry by entry.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn add_product<T: Real>(self, x: &[T], values: &[T], scale: f64, y: &mut [T]) {
        let tokens = expect_rows("x", x, self.rows);
        expect_len("values", values, self.positions.len());
        expect_len("y", y, tokens * self.columns);
        let scale = T::from_f64(scale);
        let tokens = x.chunks_exact(self.rows);
        for (x, y) in tokens.zip(y.chunks_exact_mut(self.columns)) {
            for (&value, [i, j]) in values.iter().zip(self.entries()) {
                y[j] += x[i] * (value * scale);
            }
        }
    }

    /// `gx += s gy S^T`, entry by entry.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn add_product_transposed<T: Real>(self, gy: &[T], values: &[T], scale: f64, gx: &mut [T]) {
        let tokens = expect_rows("gy", gy, self.columns);
        expect_len("values", values, self.positions.len());
        expect_len("gx", gx, tokens * self.rows);
        let scale = T::from_f64(scale);
        let tokens = gy.chunks_exact(self.columns);
        for (gy, gx) in tokens.zip(gx.chunks_exact_mut(self.rows)) {
            for (&value, [i, j]) in values.iter().zip(self.entries()) {
                gx[i] += gy[j] * (value * scale);
            }
        }
    }

    /// `y += x (W + s S)` for `x` of `[tokens, rows]` and `y` of `[tokens, columns]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn apply<T: Real>(self, x: &[T], w: &[T], values: &[T], scale: f64, y: &mut [T]) {
        let tokens = expect_rows("x", x, self.rows);
        expect_len("w", w, self.rows * self.columns);
        expect_len("values", values, self.positions.len());
        expect_len("y", y, tokens * self.columns);
        let x_mat = Mat::new(x, tokens, self.rows);
        if self.is_moved(tokens) {
            let w = Mat::new(w, self.rows, self.columns);
            matmul((y, self.columns), Onto::Present, x_mat, w, T::ONE);
            self.add_product(x, values, scale, y);
            return;
        }
        self.panels(w, values, scale, |first, panel| {
            let rows = panel.len() / self.columns;
            let panel = Mat::new(panel, rows, self.columns);
            matmul(
                (y, self.columns),
                Onto::Present,
                x_mat.narrow(first, rows),
                panel,
                T::ONE,
            );
        });
    }

    /// `gx = gy (W + s S)^T`, overwriting `gx` of `[tokens, rows]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn backward_input<T: Real>(
        self,
        gy: &[T],
        w: &[T],
        values: &[T],
        scale: f64,
        gx: &mut [T],
    ) {
        let tokens = expect_rows("gy", gy, self.columns);
        expect_len("w", w, self.rows * self.columns);
        expect_len("values", values, self.positions.len());
        expect_len("gx", gx, tokens * self.rows);
        let gy_mat = Mat::new(gy, tokens, self.columns);
        if self.is_moved(tokens) {
            let w = Mat::new(w, self.rows, self.columns);
            matmul((gx, self.rows), Onto::Nothing, gy_mat, w.t(), T::ONE);
            self.add_product_transposed(gy, values, scale, gx);
            return;
        }
        self.panels(w, values, scale, |first, panel| {
            let rows = panel.len() / self.columns;
            let panel = Mat::new(panel, rows, self.columns);
            let gx = gx.get_mut(first..).unwrap_or_default();
            matmul((gx, self.rows), Onto::Nothing, gy_mat, panel.t(), T::ONE);
        });
    }

    /// The sampled product `gv_e = s sum_t x[t, i_e] gy[t, j_e]`.
    ///
    /// Both arrays are turned once, in tiles of tokens, so that each entry is a product of two
    /// contiguous lines: `2 tokens n` flops, and `8 tokens` bytes an entry from the second and third
    /// cache.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn backward_values<T: Real>(self, x: &[T], gy: &[T], scale: f64, gv: &mut [T]) {
        let tokens = expect_rows("x", x, self.rows);
        expect_len("gy", gy, tokens * self.columns);
        expect_len("gv", gv, self.positions.len());
        let scale = T::from_f64(scale);
        let entries: Vec<[u32; 2]> = self.entries().map(|at| at.map(|at| at as u32)).collect();
        gv.fill(T::ZERO);
        let tiles = x
            .chunks(TILE * self.rows)
            .zip(gy.chunks(TILE * self.columns));
        let [mut left, mut right] = [Vec::new(), Vec::new()];
        for (x, gy) in tiles {
            turn_all(x, self.rows, &mut left);
            turn_all(gy, self.columns, &mut right);
            let groups = left.len() / self.rows;
            let chunk = rows_per_task(gv.len(), 2 * groups * LANES).max(1);
            for_each(
                gv.chunks_mut(chunk).zip(entries.chunks(chunk)),
                |(gv, entries)| {
                    dots(&left, &right, groups, entries, gv);
                },
            );
        }
        for gv in gv {
            *gv *= scale;
        }
    }

    /// Whether so few tokens are given that entries are moved and nothing is copied.
    fn is_moved(self, tokens: usize) -> bool {
        tokens * self.positions.len() * MOVE <= self.rows * self.columns
    }

    /// Row and column of every entry; a division only where the row changes.
    fn entries(self) -> impl Iterator<Item = [usize; 2]> {
        let (mut row, mut start, columns) = (0, 0, self.columns);
        self.positions.iter().map(move |&position| {
            let position = position as usize;
            if position.wrapping_sub(start) >= columns {
                row = position / columns;
                start = row * columns;
            }
            [row, position - start]
        })
    }

    /// Calls `run` with the first row and the numbers of each panel of W + s S.
    fn panels<T: Real>(
        self,
        w: &[T],
        values: &[T],
        scale: f64,
        mut run: impl FnMut(usize, &mut [T]),
    ) {
        let rows = (PANEL / self.columns).max(PANEL_ROWS);
        let ascending = self.positions.is_sorted();
        let mut panel = Vec::with_capacity(w.len().min(rows * self.columns));
        for (at, w) in w.chunks(rows * self.columns).enumerate() {
            let first = at * rows * self.columns;
            panel.clear();
            panel.extend_from_slice(w);
            let (positions, values) = if ascending {
                let before = |end: usize| self.positions.partition_point(|&p| (p as usize) < end);
                let range = before(first)..before(first + w.len());
                (&self.positions[range.clone()], &values[range])
            } else {
                (self.positions, values)
            };
            add(positions, values, T::from_f64(scale), first, &mut panel);
            run(at * rows, &mut panel);
        }
    }
}

/// Adds the values whose places are in the part of the matrix that starts at `first`.
fn add<T: Real>(positions: &[i64], values: &[T], scale: T, first: usize, w: &mut [T]) {
    for (&position, &value) in positions.iter().zip(values) {
        if let Some(w) = w.get_mut((position as usize).wrapping_sub(first)) {
            *w += value * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn is_the_product_with_the_changed_matrix(
            tokens in 0usize..70,
            rows in 1usize..40,
            columns in 1usize..40,
            share in 0.0..1.0,
            ascending: bool,
            seed: u64,
        ) {
            let all = rows * columns;
            let mut order: Vec<i64> = (0..all as i64).collect();
            let keys = noise(all, seed);
            order.sort_by(|&a, &b| keys[a as usize].total_cmp(&keys[b as usize]));
            order.truncate((share * share * all as f64) as usize);
            if ascending {
                order.sort_unstable();
            }
            let sparse = SparseDelta { rows, columns, positions: &order };
            let values = noise(order.len(), seed ^ 1);
            let w = noise(all, seed ^ 2);
            let (x, gy) = (noise(tokens * rows, seed ^ 3), noise(tokens * columns, seed ^ 4));
            let mut changed = w.clone();
            for (&position, value) in order.iter().zip(&values) {
                changed[position as usize] += 0.5 * value;
            }
            let (mut y, mut gx, mut gw) = (gy.clone(), vec![0.0; x.len()], vec![0.0; all]);
            for t in 0..tokens {
                for i in 0..rows {
                    for j in 0..columns {
                        let (input, output) = (t * rows + i, t * columns + j);
                        y[output] += x[input] * changed[i * columns + j];
                        gx[input] += gy[output] * changed[i * columns + j];
                        gw[i * columns + j] += x[input] * gy[output];
                    }
                }
            }
            let gv: Vec<f64> = order.iter().map(|&at| 0.5 * gw[at as usize]).collect();
            let (mut found_y, mut found_gx, mut found_gv) = (gy.clone(), x.clone(), values.clone());
            sparse.apply(&x, &w, &values, 0.5, &mut found_y);
            sparse.backward_input(&gy, &w, &values, 0.5, &mut found_gx);
            sparse.backward_values(&x, &gy, 0.5, &mut found_gv);
            assert_close(&found_y, &y, |_| 1e-13);
            assert_close(&found_gx, &gx, |_| 1e-13);
            assert_close(&found_gv, &gv, |_| 1e-13);
            sparse.gather(&gw, 0.5, &mut found_gv);
            assert_close(&found_gv, &gv, |_| 1e-15);
            let mut found = w.clone();
            sparse.add_to(&values, 0.5, &mut found);
            assert_close(&found, &changed, |_| 1e-15);
        }
    }

    #[test]
    fn panels_make_the_whole() {
        // Seven panels, in both orders of the entries.
        let (rows, columns) = (1600, 5000);
        let up: Vec<i64> = (0..2000).map(|e| e * 3999).collect();
        let down: Vec<i64> = up.iter().rev().copied().collect();
        let (w, values) = (noise(rows * columns, 1), noise(2000, 2));
        let mut whole = w.clone();
        for (positions, values) in [
            (&up, values.clone()),
            (&down, values.iter().rev().copied().collect()),
        ] {
            let sparse = SparseDelta {
                rows,
                columns,
                positions,
            };
            whole.copy_from_slice(&w);
            sparse.add_to(&values, 0.5, &mut whole);
            let mut found = Vec::new();
            sparse.panels(&w, &values, 0.5, |first, panel| {
                assert_eq!(found.len(), first * columns);
                found.extend_from_slice(panel);
            });
            assert!(found == whole);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (rows, columns, tokens) = (300, 400, 600);
        let positions: Vec<i64> = (0..20_000).map(|e| e * 6).collect();
        let sparse = SparseDelta {
            rows,
            columns,
            positions: &positions,
        };
        let x = narrow(&noise(tokens * rows, 1));
        let gy = narrow(&noise(tokens * columns, 2));
        assert_thread_independent(|| {
            let mut gv = vec![0.0; positions.len()];
            sparse.backward_values(&x, &gy, 1.0, &mut gv);
            gv
        });
    }
}
