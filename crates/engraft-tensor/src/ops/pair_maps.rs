//! Scaled rotations of pairs of columns.

use burn::tensor::Tensor;
use engraft_kernels::{PairMaps, Real};

use super::fused::{Input, Kernel, Returned, fused};

/// Maps of pairs by angles t and scales a, `[k width / 2]` each:
/// z_1 = a_11 cos t_11 y_1 - a_12 sin t_12 y_2 and z_2 = a_21 sin t_21 y_1 + a_22 cos t_22 y_2.
///
/// Columns are in groups of `2 half`; column j of the first half of a group is paired with column j of
/// the second. Angles are ordered by group, within it first those of the cosines and then those of
/// the sines where they differ (k = 4), within these by row z_1, z_2 where the rows differ (k = 2 and
/// 4), and then by pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairRotation {
    /// k: 1, one angle for all four entries; 2, one for each row; 4, one for each entry.
    pub per_pair: usize,
    /// Pairs of a group.
    pub half: usize,
}

impl PairRotation {
    /// For entry 11, 12, 21, 22 of each pair, in this order, the place of its angle and which it is.
    fn entries(self, pairs: usize) -> impl Iterator<Item = (usize, usize)> {
        let Self { per_pair, half } = self;
        (0..4).flat_map(move |entry| {
            let part = match per_pair {
                1 => 0,
                2 => entry / 2,
                _ => [0, 2, 3, 1][entry],
            };
            (0..pairs).map(move |pair| {
                let (group, j) = (pair / half, pair % half);
                ((group * per_pair + part) * half + j, entry)
            })
        })
    }

    fn maps<T: Real>(self, theta: &[T], alpha: &[T], width: usize) -> Vec<T> {
        self.entries(width / 2)
            .map(|(at, entry)| {
                let [value, _] = curve(entry, theta[at].to_f64());
                T::from_f64(alpha[at].to_f64() * value)
            })
            .collect()
    }
}

/// The entry 11, 12, 21 or 22 of a rotation by `t`, and its derivative.
fn curve(entry: usize, t: f64) -> [f64; 2] {
    let (sin, cos) = t.sin_cos();
    match entry {
        1 => [-sin, -cos],
        2 => [sin, cos],
        _ => [cos, -sin],
    }
}

/// Inputs y: [rows, width], t and a.
impl Kernel for PairRotation {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        input > 0 || wanted[1] || wanted[2]
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let width = x[0].shape[1];
        let half = self.half;
        let maps = self.maps(x[1].data, x[2].data, width);
        PairMaps { width, half }.apply(x[0].data, &maps, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let (width, half) = (x[0].shape[1], self.half);
        let (theta, alpha) = (x[1].data, x[2].data);
        let maps = self.maps(theta, alpha, width);
        let pairs = PairMaps { width, half };
        let mut gx = vec![T::ZERO; gy.len()];
        if !wanted[1] && !wanted[2] {
            // The transposed maps.
            let n = width / 2;
            let spans = [0..n, 2 * n..3 * n, n..2 * n, 3 * n..4 * n];
            let turned: Vec<T> = spans
                .into_iter()
                .flat_map(|span| &maps[span])
                .copied()
                .collect();
            pairs.apply(gy, &turned, &mut gx);
            return vec![Some(gx), None, None];
        }
        let gmaps = pairs.backward(x[0].data, &maps, gy, &mut gx);
        let (mut gtheta, mut galpha) = (vec![0.0; theta.len()], vec![0.0; alpha.len()]);
        for ((at, entry), g) in self.entries(width / 2).zip(gmaps) {
            let [value, slope] = curve(entry, theta[at].to_f64());
            galpha[at] += g.to_f64() * value;
            gtheta[at] += g.to_f64() * alpha[at].to_f64() * slope;
        }
        let rounded = |g: Vec<f64>| g.into_iter().map(T::from_f64).collect();
        vec![Some(gx), Some(rounded(gtheta)), Some(rounded(galpha))]
    }
}

/// The pairs of columns of y: [rows, width] mapped as [`PairRotation`] says, by angles theta and
/// scales alpha. One pass over y, and one over y and the gradient backward: y is kept.
pub fn rotate_pairs(
    y: Tensor<2>,
    theta: Tensor<1>,
    alpha: Tensor<1>,
    maps: PairRotation,
) -> Tensor<2> {
    fused(maps, vec![y.into(), theta.into(), alpha.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next(), inputs.next(), maps)
    })
}

fn composed(y: Tensor<2>, theta: Tensor<1>, alpha: Tensor<1>, maps: PairRotation) -> Tensor<2> {
    let [rows, width] = y.dims();
    let PairRotation { per_pair, half } = maps;
    let groups = width / (2 * half);
    // [1, groups, cosines and sines, rows of the map, pairs].
    let dims = match per_pair {
        1 => [1, groups, 1, 1, half],
        2 => [1, groups, 1, 2, half],
        _ => [1, groups, 2, 2, half],
    };
    let all = [1, groups, 2, 2, half];
    let [theta, alpha] = [theta, alpha].map(|x| x.reshape(dims).expand(all));
    let part = |x: &Tensor<5>, part: usize, row: usize| {
        x.clone()
            .narrow(2, part, 1)
            .narrow(3, row, 1)
            .reshape([1, groups, half])
    };
    let entry = |sine: usize, row: usize| {
        let (t, a) = (part(&theta, sine, row), part(&alpha, sine, row));
        a * if sine == 1 { t.sin() } else { t.cos() }
    };
    let y: Tensor<4> = y.reshape([rows, groups, 2, half]);
    let [y1, y2] = [0, 1].map(|at| y.clone().narrow(2, at, 1).reshape([rows, groups, half]));
    let z1 = y1.clone() * entry(0, 0) - y2.clone() * entry(1, 0);
    let z2 = y1 * entry(1, 1) + y2 * entry(0, 1);
    Tensor::stack::<4>(vec![z1, z2], 2).reshape([rows, width])
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for per_pair in [1, 2, 4] {
            for [rows, groups, half] in [[1, 1, 1], [7, 3, 1], [5, 2, 9], [33, 1, 32]] {
                let maps = PairRotation { per_pair, half };
                let angles = per_pair * groups * half;
                let shapes: [&[usize]; 3] = [&[rows, 2 * groups * half], &[angles], &[angles]];
                agree(&shapes, rows + 4, |x, fast| {
                    let f = if fast { rotate_pairs } else { composed };
                    f(x[0].matrix(), x[1].vector(), x[2].vector(), maps)
                });
            }
        }
    }
}
