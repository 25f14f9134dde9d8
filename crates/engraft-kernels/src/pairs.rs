//! Linear maps of pairs of columns, the activation form of RoAd.

use crate::parallel::{chunks_mut, for_each, reduce, rows_per_partial, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// Work of one pair of a row, in the unit of [`rows_per_task`].
const COST: usize = 32;

/// In groups of `2 h` columns, column `j` of the first half and column `j` of the second are mapped
/// by a 2 x 2 matrix: `(z_1, z_2) = (a y_1 + b y_2, c y_1 + d y_2)`.
///
/// Matrices are four arrays `a, b, c, d` one after the other, `[4, width / 2]`, with the pairs in
/// the order of the groups. One pass over the rows each way (Liao and Monz, arXiv 2409.00119,
/// section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairMaps {
    /// Columns, a multiple of `2 h`.
    pub width: usize,
    /// `h`.
    pub half: usize,
}

impl PairMaps {
    /// Writes `z` of `y`, both `[rows, width]`.
    ///
    /// # Panics
    ///
    /// Unless `y` and `z` have one length, a multiple of the width, and `maps` two for each column.
    pub fn apply<T: Real>(self, y: &[T], maps: &[T], z: &mut [T]) {
        let rows = self.check(y, maps);
        expect_len("z", z, y.len());
        let chunk = rows_per_task(rows, self.width / 2 * COST) * self.width;
        for_each(y.chunks(chunk).zip(z.chunks_mut(chunk)), |(y, z)| {
            forward(self, y, maps, z)
        });
    }

    /// Writes the gradient of `y` from that of `z` and returns that of the maps, `[4, width / 2]`:
    /// `sum_rows [y_1 g_1, y_2 g_1, y_1 g_2, y_2 g_2]`.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward<T: Real>(self, y: &[T], maps: &[T], gz: &[T], gy: &mut [T]) -> Vec<T> {
        let rows = self.check(y, maps);
        expect_len("gz", gz, y.len());
        expect_len("gy", gy, y.len());
        let task = rows_per_partial(rows, self.width * COST);
        let outputs = chunks_mut(gy, task * self.width);
        reduce(rows, task, 2 * self.width, outputs, |range, sum, gy| {
            let span = range.start * self.width..range.end * self.width;
            backward(self, &y[span.clone()], maps, &gz[span], gy, sum);
        })
    }

    #[track_caller]
    fn check<T>(self, y: &[T], maps: &[T]) -> usize {
        let Self { width, half } = self;
        assert!(
            half > 0 && width.is_multiple_of(2 * half),
            "groups of 2 x {half} columns do not divide a width of {width}"
        );
        expect_len("maps", maps, 2 * width);
        expect_rows("y", y, width)
    }
}

/// Runs a loop with the most frequent widths of a half as constants.
macro_rules! by_half {
    ($half:expr, $run:ident($($arg:expr),*)) => {
        match $half {
            1 => $run::<T, FUSED, 1>($($arg),*),
            2 => $run::<T, FUSED, 2>($($arg),*),
            4 => $run::<T, FUSED, 4>($($arg),*),
            _ => $run::<T, FUSED, 0>($($arg),*),
        }
    };
}

/// The four arrays of maps.
#[inline(always)]
fn four<T>(maps: &[T], pairs: usize) -> [&[T]; 4] {
    [0, 1, 2, 3].map(|entry| &maps[entry * pairs..(entry + 1) * pairs])
}

#[inline(always)]
fn rows_forward<T: Real, const FUSED: bool, const HALF: usize>(
    shape: PairMaps,
    y: &[T],
    maps: &[T],
    z: &mut [T],
) {
    let half = if HALF == 0 { shape.half } else { HALF };
    let [a, b, c, d] = four(maps, shape.width / 2);
    for (y, z) in y
        .chunks_exact(shape.width)
        .zip(z.chunks_exact_mut(shape.width))
    {
        let groups = y.chunks_exact(2 * half).zip(z.chunks_exact_mut(2 * half));
        for (group, (y, z)) in groups.enumerate() {
            let span = group * half..(group + 1) * half;
            let [a, b, c, d] = [a, b, c, d].map(|entry| &entry[span.clone()]);
            let ((y1, y2), (z1, z2)) = (y.split_at(half), z.split_at_mut(half));
            for j in 0..half {
                z1[j] = a[j].mul_add::<FUSED>(y1[j], b[j] * y2[j]);
                z2[j] = c[j].mul_add::<FUSED>(y1[j], d[j] * y2[j]);
            }
        }
    }
}

#[inline(always)]
fn rows_backward<T: Real, const FUSED: bool, const HALF: usize>(
    shape: PairMaps,
    [y, gz]: [&[T]; 2],
    maps: &[T],
    gy: &mut [T],
    sum: &mut [T],
) {
    let half = if HALF == 0 { shape.half } else { HALF };
    let pairs = shape.width / 2;
    let [a, b, c, d] = four(maps, pairs);
    let (sum_ab, sum_cd) = sum.split_at_mut(2 * pairs);
    let ((sa, sb), (sc, sd)) = (sum_ab.split_at_mut(pairs), sum_cd.split_at_mut(pairs));
    let rows = y
        .chunks_exact(shape.width)
        .zip(gz.chunks_exact(shape.width));
    for ((y, gz), gy) in rows.zip(gy.chunks_exact_mut(shape.width)) {
        let groups = y.chunks_exact(2 * half).zip(gz.chunks_exact(2 * half));
        for (group, ((y, gz), gy)) in groups.zip(gy.chunks_exact_mut(2 * half)).enumerate() {
            let span = group * half..(group + 1) * half;
            let [a, b, c, d] = [a, b, c, d].map(|entry| &entry[span.clone()]);
            let [sa, sb, sc, sd] =
                [&mut *sa, &mut *sb, &mut *sc, &mut *sd].map(|sum| &mut sum[span.clone()]);
            let ((y1, y2), (g1, g2)) = (y.split_at(half), gz.split_at(half));
            let (gy1, gy2) = gy.split_at_mut(half);
            for j in 0..half {
                gy1[j] = a[j].mul_add::<FUSED>(g1[j], c[j] * g2[j]);
                gy2[j] = b[j].mul_add::<FUSED>(g1[j], d[j] * g2[j]);
                sa[j] = y1[j].mul_add::<FUSED>(g1[j], sa[j]);
                sb[j] = y2[j].mul_add::<FUSED>(g1[j], sb[j]);
                sc[j] = y1[j].mul_add::<FUSED>(g2[j], sc[j]);
                sd[j] = y2[j].mul_add::<FUSED>(g2[j], sd[j]);
            }
        }
    }
}

simd! {
    fn forward<T, const FUSED: bool>(shape: PairMaps, y: &[T], maps: &[T], z: &mut [T]) {
        by_half!(shape.half, rows_forward(shape, y, maps, z));
    }
}

simd! {
    fn backward<T, const FUSED: bool>(
        shape: PairMaps, y: &[T], maps: &[T], gz: &[T], gy: &mut [T], sum: &mut [T],
    ) {
        by_half!(shape.half, rows_backward(shape, [y, gz], maps, gy, sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    fn run<T: Real>(shape: PairMaps, y: &[T], maps: &[T], gz: &[T]) -> [Vec<T>; 3] {
        let (mut z, mut gy) = (vec![T::ZERO; y.len()], vec![T::ZERO; y.len()]);
        shape.apply(y, maps, &mut z);
        let gm = shape.backward(y, maps, gz, &mut gy);
        [z, gy, gm]
    }

    fn reference(shape: PairMaps, y: &[f64], maps: &[f64], gz: &[f64]) -> [Vec<f64>; 3] {
        let (width, half, pairs) = (shape.width, shape.half, shape.width / 2);
        let (mut z, mut gy) = (vec![0.0; y.len()], vec![0.0; y.len()]);
        let mut gm = vec![0.0; 2 * width];
        for row in (0..y.len()).step_by(width) {
            for p in 0..pairs {
                let first = row + p / half * 2 * half + p % half;
                for (entry, [i, j]) in [[0, 0], [0, 1], [1, 0], [1, 1]].into_iter().enumerate() {
                    let (to, from, at) = (first + i * half, first + j * half, entry * pairs + p);
                    z[to] += maps[at] * y[from];
                    gy[from] += maps[at] * gz[to];
                    gm[at] += y[from] * gz[to];
                }
            }
        }
        [z, gy, gm]
    }

    proptest! {
        #[test]
        fn agrees_with_loops_in_f64(rows in 0usize..20, groups in 1usize..5, half in 1usize..40, seed: u64) {
            let shape = PairMaps { width: 2 * half * groups, half };
            let len = rows * shape.width;
            let [y, gz] = [seed, !seed].map(|seed| narrow(&noise(len, seed)));
            let maps = narrow(&noise(2 * shape.width, seed ^ 3));
            let expected = reference(shape, &widen(&y), &widen(&maps), &widen(&gz));
            for (found, expected) in run(shape, &y, &maps, &gz).iter().zip(&expected) {
                assert_close(found, expected, |_| 2f64.powi(-23) * (rows + 2) as f64);
            }
            let found = run(shape, &widen(&y), &widen(&maps), &widen(&gz));
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(found, expected, |_| 1e-15 * (rows + 2) as f64);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let shape = PairMaps {
            width: 66,
            half: 11,
        };
        let len = 4003 * shape.width;
        let [y, gz] = [1, 2].map(|seed| narrow(&noise(len, seed)));
        let maps = narrow(&noise(2 * shape.width, 3));
        assert_thread_independent(|| run(shape, &y, &maps, &gz).concat());
    }
}
