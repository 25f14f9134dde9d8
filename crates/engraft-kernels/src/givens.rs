//! Stages of maps of planes, the activation form and the weight form of GOFT.

use crate::parallel::{for_each, reduce, rows_per_partial, rows_per_task};
use crate::{Real, expect_len, expect_rows};

/// Work of one pair of a row, in the unit of [`rows_per_task`].
const COST: usize = 16;

/// Rows that go through all stages together, each in its lane of a vector.
const LANES: usize = 16;

/// One coordinate of `LANES` rows.
type Lanes<T> = [T; LANES];

/// `R = P_S ... P_2 P_1` of side `d`: stage `s = 1, 2, ...` maps the planes of the coordinates `2^s k`
/// and `2^(s-1) (2 k + 1)` by matrices `[[a, b], [c, d]]`, which are entries of `P_s` in those rows and
/// columns, and passes the others on.
///
/// Matrices are four arrays `a, b, c, d`, `[4, d - 1]`, in the order of the stages. Every
/// row costs `O(d)`: `d - 1` planes in `ceil(log2 d)` stages (Ma et al., arXiv 2404.04316, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneMaps {
    /// Side `d`, at least 2.
    pub width: usize,
}

impl PlaneMaps {
    /// `y = x R`, with `x` and `y` of `[rows, d]`.
    ///
    /// # Panics
    ///
    /// Unless all lengths are those of the shapes.
    pub fn apply<T: Real>(self, x: &[T], maps: &[T], y: &mut [T]) {
        let rows = self.check(x, y, maps);
        let task = rows_per_task(rows, self.width * COST).next_multiple_of(LANES);
        let chunk = task * self.width;
        for_each(x.chunks(chunk).zip(y.chunks_mut(chunk)), |(x, y)| {
            forward(self, false, x, maps, y)
        });
    }

    /// Writes the gradient of `x` of [`apply`](Self::apply) and returns that of the maps, `[4, d - 1]`.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward<T: Real>(self, x: &[T], maps: &[T], gy: &[T], gx: &mut [T]) -> Vec<T> {
        let rows = self.check(x, gx, maps);
        expect_len("gy", gy, x.len());
        let task = rows_per_partial(rows, 3 * self.width * COST).next_multiple_of(LANES);
        let chunks = crate::parallel::chunks_mut(gx, task * self.width);
        reduce(rows, task, maps.len(), chunks, |range, sum, gx| {
            let span = range.start * self.width..range.end * self.width;
            backward(self, false, &x[span.clone()], maps, &gy[span], gx, sum);
        })
    }

    /// `y = R w`, with `w` and `y` of `[d, columns]`.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn apply_left<T: Real>(self, w: &[T], maps: &[T], y: &mut [T]) {
        self.check(w, y, maps);
        forward(self, true, w, maps, y);
    }

    /// Writes the gradient of `w` of [`apply_left`](Self::apply_left) and returns that of the maps.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn backward_left<T: Real>(self, w: &[T], maps: &[T], gy: &[T], gw: &mut [T]) -> Vec<T> {
        self.check(w, gw, maps);
        expect_len("gy", gy, w.len());
        let mut sum = vec![T::ZERO; maps.len()];
        backward(self, true, w, maps, gy, gw, &mut sum);
        sum
    }

    #[track_caller]
    fn check<T>(self, x: &[T], y: &[T], maps: &[T]) -> usize {
        assert!(self.width >= 2, "a width of {} has no plane", self.width);
        expect_len("maps", maps, 4 * (self.width - 1));
        expect_len("y", y, x.len());
        expect_rows("x", x, self.width)
    }

    /// Number of stages.
    fn stages(self) -> u32 {
        self.width.next_power_of_two().trailing_zeros()
    }

    /// Distance of the coordinates of stage `s = 0, 1, ...`, and its first plane.
    fn stage(self, s: u32) -> [usize; 2] {
        // Stage s starts with ceil(d / 2^s) coordinates, and each earlier plane retired one.
        [1 << s, self.width - self.width.div_ceil(1 << s)]
    }

    /// Calls `run(plane, i, j)` for the planes of the stages in the order in which they act on rows
    /// `x R`, the last stage first, or on columns `R w` if `left`.
    #[inline(always)]
    fn each(self, left: bool, mut run: impl FnMut(usize, usize, usize)) {
        let last = self.stages() - 1;
        for turn in 0..=last {
            let [stride, first] = self.stage(if left { turn } else { last - turn });
            let pairs = (stride..self.width).step_by(2 * stride);
            for (plane, j) in pairs.enumerate() {
                run(first + plane, j - stride, j);
            }
        }
    }

    /// The same planes in the opposite order.
    #[inline(always)]
    fn each_back(self, left: bool, run: impl FnMut(usize, usize, usize)) {
        self.each(!left, run);
    }
}

/// Reads `count` vectors from `start` on: rows of `[rows, d]`, or columns of `[d, columns]` if `left`.
#[inline(always)]
fn load<T: Real>(x: &[T], width: usize, left: bool, start: usize, tile: &mut [Lanes<T>]) {
    let vectors = x.len() / width;
    let count = LANES.min(vectors - start);
    if left {
        for (lanes, row) in tile.iter_mut().zip(x.chunks_exact(vectors)) {
            lanes[..count].copy_from_slice(&row[start..start + count]);
        }
    } else {
        for (lane, row) in x.chunks_exact(width).skip(start).take(count).enumerate() {
            for (lanes, &value) in tile.iter_mut().zip(row) {
                lanes[lane] = value;
            }
        }
    }
    if count < LANES {
        tile.iter_mut()
            .for_each(|lanes| lanes[count..].fill(T::ZERO));
    }
}

/// Undoes [`load`].
#[inline(always)]
fn store<T: Real>(tile: &[Lanes<T>], width: usize, left: bool, start: usize, y: &mut [T]) {
    let vectors = y.len() / width;
    let count = LANES.min(vectors - start);
    if left {
        for (lanes, row) in tile.iter().zip(y.chunks_exact_mut(vectors)) {
            row[start..start + count].copy_from_slice(&lanes[..count]);
        }
    } else {
        for (lane, row) in y
            .chunks_exact_mut(width)
            .skip(start)
            .take(count)
            .enumerate()
        {
            for (lanes, value) in tile.iter().zip(row) {
                *value = lanes[lane];
            }
        }
    }
}

/// `p u + q v`.
#[inline(always)]
fn mix<T: Real, const FUSED: bool>(p: T, u: &Lanes<T>, q: T, v: &Lanes<T>) -> Lanes<T> {
    std::array::from_fn(|lane| p.mul_add::<FUSED>(u[lane], q * v[lane]))
}

/// `sum_lane u v`, in halves.
#[inline(always)]
fn inner<T: Real>(u: &Lanes<T>, v: &Lanes<T>) -> T {
    let mut products: Lanes<T> = std::array::from_fn(|lane| u[lane] * v[lane]);
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            products[lane] += products[lane + half];
        }
    }
    products[0]
}

/// The matrix of a plane as it acts: transposed on rows.
#[inline(always)]
fn acting<T: Real>(maps: &[T], plane: usize, left: bool) -> [T; 4] {
    let planes = maps.len() / 4;
    let [a, b, c, d] = [0, 1, 2, 3].map(|entry| maps[entry * planes + plane]);
    if left { [a, b, c, d] } else { [a, c, b, d] }
}

simd! {
    fn forward<T, const FUSED: bool>(
        shape: PlaneMaps, left: bool, x: &[T], maps: &[T], y: &mut [T],
    ) {
        let width = shape.width;
        let mut tile = vec![[T::ZERO; LANES]; width];
        for start in (0..x.len() / width).step_by(LANES) {
            load(x, width, left, start, &mut tile);
            shape.each(left, |plane, i, j| {
                let [a, b, c, d] = acting(maps, plane, left);
                let (u, v) = (tile[i], tile[j]);
                tile[i] = mix::<T, FUSED>(a, &u, b, &v);
                tile[j] = mix::<T, FUSED>(c, &u, d, &v);
            });
            store(&tile, width, left, start, y);
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(
        shape: PlaneMaps, left: bool, x: &[T], maps: &[T], gy: &[T], gx: &mut [T], sum: &mut [T],
    ) {
        let (width, planes) = (shape.width, shape.width - 1);
        let mut tile = vec![[T::ZERO; LANES]; width];
        // The two coordinates of each plane before its map.
        let mut inputs = vec![[[T::ZERO; LANES]; 2]; planes];
        for start in (0..x.len() / width).step_by(LANES) {
            load(x, width, left, start, &mut tile);
            shape.each(left, |plane, i, j| {
                let [a, b, c, d] = acting(maps, plane, left);
                let (u, v) = (tile[i], tile[j]);
                inputs[plane] = [u, v];
                tile[i] = mix::<T, FUSED>(a, &u, b, &v);
                tile[j] = mix::<T, FUSED>(c, &u, d, &v);
            });
            load(gy, width, left, start, &mut tile);
            shape.each_back(left, |plane, i, j| {
                let [a, b, c, d] = acting(maps, plane, left);
                let (gu, gv) = (tile[i], tile[j]);
                let [u, v] = &inputs[plane];
                let [off, across] = if left { [1, 2] } else { [2, 1] };
                sum[plane] += inner(&gu, u);
                sum[off * planes + plane] += inner(&gu, v);
                sum[across * planes + plane] += inner(&gv, u);
                sum[3 * planes + plane] += inner(&gv, v);
                tile[i] = mix::<T, FUSED>(a, &gu, c, &gv);
                tile[j] = mix::<T, FUSED>(b, &gu, d, &gv);
            });
            store(&tile, width, left, start, gx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::transpose;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, slope};
    use proptest::prelude::*;

    fn applied<T: Real>(width: usize, x: &[T], maps: &[T]) -> Vec<T> {
        let mut y = vec![T::ZERO; x.len()];
        PlaneMaps { width }.apply(x, maps, &mut y);
        y
    }

    fn gradients<T: Real>(width: usize, x: &[T], maps: &[T], gy: &[T]) -> [Vec<T>; 2] {
        let mut gx = vec![T::ZERO; x.len()];
        let gm = PlaneMaps { width }.backward(x, maps, gy, &mut gx);
        [gx, gm]
    }

    proptest! {
        #[test]
        fn is_the_product_of_its_maps(rows in 0usize..40, width in 2usize..40, seed: u64) {
            let planes = width - 1;
            let maps = noise(4 * planes, seed);
            let (x, gy) = (noise(rows * width, seed ^ 1), noise(rows * width, seed ^ 2));
            // x R = x P_S ... P_1, map by map.
            let mut pairs = Vec::new();
            let mut stride = 1;
            while stride < width {
                pairs.extend((0..width).step_by(2 * stride).filter(|i| i + stride < width).map(|i| [i, i + stride]));
                stride *= 2;
            }
            prop_assert_eq!(pairs.len(), planes);
            let mut expected = x.clone();
            for (p, &[i, j]) in pairs.iter().enumerate().rev() {
                let [a, b, c, d] = [0, 1, 2, 3].map(|entry| maps[entry * planes + p]);
                for row in expected.chunks_exact_mut(width) {
                    (row[i], row[j]) = (row[i] * a + row[j] * c, row[i] * b + row[j] * d);
                }
            }
            assert_close(&applied(width, &x, &maps), &expected, |_| 1e-13);
            assert_close(&applied(width, &narrow(&x), &narrow(&maps)), &expected, |_| 1e-5);
            let [gx, gm] = gradients(width, &x, &maps, &gy);
            assert_close(&gx, &slope(&x, &gy, |x| applied(width, x, &maps)), |_| 1e-7);
            assert_close(&gm, &slope(&maps, &gy, |maps| applied(width, &x, maps)), |_| 1e-6 * (rows + 1) as f64);
            // R w of the transposed maps is (w^T R)^T.
            let turned: Vec<f64> = [0, 2, 1, 3].iter().flat_map(|entry| &maps[entry * planes..(entry + 1) * planes]).copied().collect();
            let (w, gw_out) = (transpose(&x, width), transpose(&gy, width));
            let (mut y, mut gw) = (vec![0.0; w.len()], vec![0.0; w.len()]);
            PlaneMaps { width }.apply_left(&w, &turned, &mut y);
            let gt = PlaneMaps { width }.backward_left(&w, &turned, &gw_out, &mut gw);
            // The product of transposes runs the stages the other way round: P_1^T ... P_S^T = R^T.
            let reversed = {
                let mut expected = x.clone();
                for (p, &[i, j]) in pairs.iter().enumerate() {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|entry| turned[entry * planes + p]);
                    for row in expected.chunks_exact_mut(width) {
                        (row[i], row[j]) = (row[i] * a + row[j] * b, row[i] * c + row[j] * d);
                    }
                }
                expected
            };
            assert_close(&transpose(&y, rows.max(1)), &reversed, |_| 1e-13);
            let left = |w: &[f64], maps: &[f64]| {
                let mut y = vec![0.0; w.len()];
                PlaneMaps { width }.apply_left(w, maps, &mut y);
                y
            };
            assert_close(&gw, &slope(&w, &gw_out, |w| left(w, &turned)), |_| 1e-7);
            assert_close(&gt, &slope(&turned, &gw_out, |maps| left(&w, maps)), |_| 1e-6 * (rows + 1) as f64);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let width = 129;
        let maps = narrow(&noise(4 * (width - 1), 1));
        let [x, gy] = [2, 3].map(|seed| narrow(&noise(1003 * width, seed)));
        assert_thread_independent(|| {
            [
                vec![applied(width, &x, &maps)],
                gradients(width, &x, &maps, &gy).to_vec(),
            ]
            .concat()
            .concat()
        });
    }

    #[test]
    #[should_panic(expected = "maps: found 3 numbers, expected 12")]
    fn lengths_are_checked() {
        applied(4, &[0.0f32; 8], &[0.0; 3]);
    }
}
