//! Products of butterfly factors.

use crate::product::{Extent, Strided, accumulate, transpose};
use crate::{Real, expect_len};

/// `q` butterfly factors `B_s = P_s diag(R_s1, ..., R_sn) P_s^T` of `n` blocks of side `b`,
/// `s = 0, ..., q - 1`; arrays of blocks hold `[q, n, b, b]`.
///
/// The two halves of a block of factor `s` lie `2^s` half blocks apart (Liu et al., arXiv
/// 2311.06243, section 4). The product `B_(q-1) ... B_1 B_0` is therefore block-diagonal itself, with
/// blocks of side `c = 2^(q-1) b`: it is multiplied out, in `n b c b q` multiply-adds, where more
/// than about `c` tokens go through it, and applied as [`BlockDiagonal`](crate::BlockDiagonal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Butterfly {
    /// Number of factors `q`, at least 1; `b` is even if there are several.
    pub factors: usize,
    /// Number of blocks `n` of a factor, a multiple of `2^(q-1)`.
    pub blocks: usize,
    /// Side `b` of a block.
    pub size: usize,
}

impl Butterfly {
    /// Side of a block of the product.
    pub fn side(self) -> usize {
        self.group() * self.size
    }

    /// Blocks of a factor that meet in one block of the product.
    fn group(self) -> usize {
        1 << (self.factors - 1)
    }

    /// The first columns of the two halves of block `k` of factor `s`, within a block of the product.
    fn halves(self, s: usize, k: usize) -> [usize; 2] {
        let half = self.size / 2;
        let first = ((k >> s) << s) * self.size + (k & ((1 << s) - 1)) * half;
        [first, first + (half << s)]
    }

    /// Where block `k` of factor `s` of group `g` is stored.
    fn place(self, g: usize, s: usize, k: usize) -> std::ops::Range<usize> {
        let square = self.size * self.size;
        let start = (s * self.blocks + g * self.group() + k) * square;
        start..start + square
    }

    #[track_caller]
    fn check<T>(self, r: &[T], product: &[T]) {
        let groups = self.blocks / self.group();
        let fits = groups * self.group() == self.blocks
            && (self.factors == 1 || self.size.is_multiple_of(2));
        assert!(
            fits,
            "{self:?}: expected even blocks, a multiple of 2^(q-1)"
        );
        expect_len("r", r, self.factors * self.blocks * self.size * self.size);
        expect_len("product", product, groups * self.side() * self.side());
    }

    /// Writes the blocks of `B_(q-1) ... B_0`, `[n / 2^(q-1), c, c]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths are those of the shapes.
    pub fn apply<T: Real>(self, r: &[T], product: &mut [T]) {
        self.check(r, product);
        let side = self.side();
        for (g, product) in product.chunks_exact_mut(side * side).enumerate() {
            product.fill(T::ZERO);
            product
                .iter_mut()
                .step_by(side + 1)
                .for_each(|entry| *entry = T::ONE);
            for s in (0..self.factors).rev() {
                self.stage(s, product, |k| &r[self.place(g, s, k)]);
            }
        }
    }

    /// Gradient of the blocks of the factors, `[q, n, b, b]`, from that of the product.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward<T: Real>(self, r: &[T], gproduct: &[T]) -> Vec<T> {
        self.check(r, gproduct);
        let (side, b) = (self.side(), self.size);
        let mut gr = vec![T::ZERO; r.len()];
        let turned: Vec<T> = r
            .chunks_exact(b * b)
            .flat_map(|r| transpose(r, b))
            .collect();
        let mut tiles = vec![T::ZERO; 2 * side * b];
        let (xs, gs) = tiles.split_at_mut(side * b);
        for (group, gproduct) in gproduct.chunks_exact(side * side).enumerate() {
            // The inputs of the factors, the last one's first.
            let mut x = vec![T::ZERO; side * side];
            x.iter_mut()
                .step_by(side + 1)
                .for_each(|entry| *entry = T::ONE);
            let mut inputs = vec![x];
            for s in (1..self.factors).rev() {
                let mut x = inputs.last().expect("starts with the identity").clone();
                self.stage(s, &mut x, |k| &r[self.place(group, s, k)]);
                inputs.push(x);
            }
            let mut g = gproduct.to_vec();
            for (s, x) in inputs.iter().rev().enumerate() {
                for k in 0..self.group() {
                    let halves = self.halves(s, k);
                    pack(x, side, halves, xs, b);
                    pack(&g, side, halves, gs, b);
                    outer([side, b], xs, gs, &mut gr[self.place(group, s, k)]);
                }
                self.stage(s, &mut g, |k| &turned[self.place(group, s, k)]);
            }
        }
        gr
    }

    /// `x = x B_s` within one block of the product, in place.
    fn stage<'a, T: Real>(self, s: usize, x: &mut [T], block: impl Fn(usize) -> &'a [T]) {
        let (side, b) = (self.side(), self.size);
        let mut tiles = vec![T::ZERO; 2 * side * b];
        let (xs, ys) = tiles.split_at_mut(side * b);
        for k in 0..self.group() {
            let [first, second] = self.halves(s, k);
            pack(x, side, [first, second], xs, b);
            ys.fill(T::ZERO);
            inner([side, b], xs, block(k), ys);
            for (row, y) in x.chunks_exact_mut(side).zip(ys.chunks_exact(b)) {
                let (left, right) = y.split_at(b / 2);
                row[first..first + left.len()].copy_from_slice(left);
                row[second..second + right.len()].copy_from_slice(right);
            }
        }
    }
}

/// Gathers two runs of columns from each row.
fn pack<T: Real>(x: &[T], width: usize, [first, second]: [usize; 2], tile: &mut [T], b: usize) {
    for (row, tile) in x.chunks_exact(width).zip(tile.chunks_exact_mut(b)) {
        let (left, right) = tile.split_at_mut(b / 2);
        left.copy_from_slice(&row[first..first + b / 2]);
        right.copy_from_slice(&row[second..second + b - b / 2]);
    }
}

fn inner<T: Real>(shape: [usize; 2], x: &[T], r: &[T], y: &mut [T]) {
    let [m, b] = shape;
    let x = Strided {
        data: x,
        row: b,
        column: 1,
    };
    accumulate(Extent { m, k: b, n: b }, x, (r, b), (y, b));
}

fn outer<T: Real>(shape: [usize; 2], x: &[T], g: &[T], gr: &mut [T]) {
    let [k, b] = shape;
    let x = Strided {
        data: x,
        row: 1,
        column: b,
    };
    accumulate(Extent { m: b, k, n: b }, x, (g, b), (gr, b));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, narrow, noise, slope};
    use proptest::prelude::*;

    /// The dense matrix of the product, factor by factor from the definition.
    fn dense(shape: Butterfly, r: &[f64]) -> Vec<f64> {
        let (d, b) = (shape.blocks * shape.size, shape.size);
        let mut product: Vec<f64> = (0..d * d)
            .map(|at| f64::from(u8::from(at % (d + 1) == 0)))
            .collect();
        for s in (0..shape.factors).rev() {
            let mut factor = vec![0.0; d * d];
            for k in 0..shape.blocks {
                // Half blocks h and h + 2^s of a group of 2^s blocks.
                let (start, h) = (k >> s << (s + 1), k % (1 << s));
                let column = |i: usize| {
                    let (upper, within) = if i < b / 2 { (0, i) } else { (1, i - b / 2) };
                    if shape.factors == 1 {
                        k * b + i
                    } else {
                        (start + h + (upper << s)) * (b / 2) + within
                    }
                };
                for i in 0..b {
                    for j in 0..b {
                        factor[column(i) * d + column(j)] =
                            r[((s * shape.blocks + k) * b + i) * b + j];
                    }
                }
            }
            product = (0..d * d)
                .map(|at| {
                    (0..d)
                        .map(|k| product[at / d * d + k] * factor[k * d + at % d])
                        .sum()
                })
                .collect();
        }
        product
    }

    fn product<T: Real>(shape: Butterfly, r: &[T]) -> Vec<T> {
        let groups = shape.blocks >> (shape.factors - 1);
        let mut product = vec![T::ZERO; groups * shape.side() * shape.side()];
        shape.apply(r, &mut product);
        product
    }

    proptest! {
        #[test]
        fn factors_are_multiplied_out(factors in 1usize..4, groups in 1usize..3, half in 1usize..4, odd: bool, seed: u64) {
            let size = if factors == 1 && odd { 2 * half + 1 } else { 2 * half };
            let shape = Butterfly { factors, blocks: groups << (factors - 1), size };
            let r = noise(factors * shape.blocks * size * size, seed);
            let (d, side) = (shape.blocks * size, shape.side());
            let dense = dense(shape, &r);
            let within: Vec<f64> = (0..d * side).map(|at| dense[at / side * d + at / side / side * side + at % side]).collect();
            let total: f64 = dense.iter().map(|entry| entry.abs()).sum();
            prop_assert!((total - within.iter().map(|entry| entry.abs()).sum::<f64>()).abs() < 1e-9 * total);
            let scale = 1.0 + within.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert_close(&product(shape, &r), &within, |_| 1e-14 * scale * side as f64);
            assert_close(&product(shape, &narrow(&r)), &within, |_| 1e-6 * scale * side as f64);
            let g = noise(within.len(), !seed);
            let expected = slope(&r, &g, |r| product(shape, r));
            let scale = 1.0 + expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert_close(&shape.backward(&r, &g), &expected, |_| 1e-7 * scale * side as f64);
        }
    }
}
