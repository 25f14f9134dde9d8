//! Stages of maps of planes.

use burn::tensor::Tensor;
use engraft_kernels::{PlaneMaps, Real};

use super::fused::{Input, Kernel, Returned, fused};

/// x R, or R x if `left`; inputs x and the maps: [4, d - 1].
#[derive(Debug, Clone)]
struct Stages {
    left: bool,
}

fn shape_of<T>(maps: &Input<'_, T>) -> PlaneMaps {
    PlaneMaps {
        width: maps.shape[1] + 1,
    }
}

impl Kernel for Stages {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let maps = shape_of(&x[1]);
        if self.left {
            maps.apply_left(x[0].data, x[1].data, y);
        } else {
            maps.apply(x[0].data, x[1].data, y);
        }
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let maps = shape_of(&x[1]);
        let mut gx = vec![T::ZERO; gy.len()];
        let gm = if self.left {
            maps.backward_left(x[0].data, x[1].data, gy, &mut gx)
        } else {
            maps.backward(x[0].data, x[1].data, gy, &mut gx)
        };
        vec![Some(gx), Some(gm)]
    }
}

/// x R for tokens x: [tokens, d] and R = P_S ... P_2 P_1 of the maps: [4, d - 1], whose rows are the
/// entries g00, g01, g10, g11 of d - 1 maps of planes in the order of the stages.
///
/// Stage r = 1, 2, ... acts on the coordinates that are multiples of 2^(r-1), in order: the first
/// with the second, the third with the fourth, and so on, so that pair k joins 2^r k and
/// 2^(r-1) (2k + 1). A coordinate left over where their number is odd is passed on unchanged. The
/// first of each pair and the one left over meet again at stage r + 1, until one is left: each pair
/// retires one coordinate, so that there are d - 1 pairs in ceil(log2 d) stages, whatever d is.
///
/// P_r has the entries of its maps in the rows and columns of their pairs. O(tokens d); all stages
/// are one pass over x, which alone is kept and goes through them again backward.
pub fn plane_maps(x: Tensor<2>, maps: Tensor<2>) -> Tensor<2> {
    fused(Stages { left: false }, vec![x.into(), maps.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next())
    })
}

/// R W for a weight W: [d, d_out]; see [`plane_maps`].
pub fn plane_maps_rows(weight: Tensor<2>, maps: Tensor<2>) -> Tensor<2> {
    fused(Stages { left: true }, vec![weight.into(), maps.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed_rows(inputs.next(), inputs.next())
    })
}

fn composed(x: Tensor<2>, maps: Tensor<2>) -> Tensor<2> {
    // (x R)^T = P_1^T ... P_S^T x^T.
    let [g00, g01, g10, g11] = entries(maps);
    Composed([g00, g10, g01, g11])
        .last_first(x.transpose(), 0)
        .transpose()
}

fn composed_rows(weight: Tensor<2>, maps: Tensor<2>) -> Tensor<2> {
    Composed(entries(maps)).first_first(weight, 0)
}

fn entries(maps: Tensor<2>) -> [Tensor<1>; 4] {
    let n = maps.dims()[1];
    [0, 1, 2, 3].map(|entry| maps.clone().narrow(0, entry, 1).reshape([n]))
}

/// Coordinates are rows below: a row is contiguous, so that pairing rows is copying blocks.
struct Composed([Tensor<1>; 4]);

impl Composed {
    /// P_r ... P_S z on the coordinates z of stage r, whose maps start at `first`.
    fn last_first(&self, z: Tensor<2>, first: usize) -> Tensor<2> {
        let half = z.dims()[0] / 2;
        if half == 0 {
            return z;
        }
        let (kept, retired) = split(z);
        let kept = self.last_first(kept, first + half);
        let (kept, retired) = self.mix(kept, retired, first);
        join(kept, retired)
    }

    /// P_S ... P_r z on the coordinates z of stage r, whose maps start at `first`.
    fn first_first(&self, z: Tensor<2>, first: usize) -> Tensor<2> {
        let half = z.dims()[0] / 2;
        if half == 0 {
            return z;
        }
        let (kept, retired) = split(z);
        let (kept, retired) = self.mix(kept, retired, first);
        join(self.first_first(kept, first + half), retired)
    }

    /// G_k (a_k, b_k)^T for the pairs k of one stage; a coordinate of a left over stays.
    fn mix(&self, a: Tensor<2>, b: Tensor<2>, first: usize) -> (Tensor<2>, Tensor<2>) {
        let half = b.dims()[0];
        let [g00, g01, g10, g11] = self
            .0
            .each_ref()
            .map(|entry| entry.clone().narrow(0, first, half).unsqueeze_dim::<2>(1));
        let paired = a.clone().narrow(0, 0, half);
        let kept = paired.clone() * g00 + b.clone() * g01;
        let retired = paired * g10 + b * g11;
        (with_left_over(kept, &a, half), retired)
    }
}

/// `paired` with the rows of `all` from `from` on behind it.
fn with_left_over(paired: Tensor<2>, all: &Tensor<2>, from: usize) -> Tensor<2> {
    match all.dims()[0] - from {
        0 => paired,
        left => Tensor::cat(vec![paired, all.clone().narrow(0, from, left)], 0),
    }
}

/// The even rows of z [d, n], [ceil(d / 2), n], and the odd ones, [floor(d / 2), n].
fn split(z: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let [d, n] = z.dims();
    let half = d / 2;
    let pairs = z.clone().narrow(0, 0, 2 * half).reshape([half, 2, n]);
    let rows = |place: usize| pairs.clone().narrow(1, place, 1).reshape([half, n]);
    (with_left_over(rows(0), &z, 2 * half), rows(1))
}

/// Undoes [`split`].
fn join(even: Tensor<2>, odd: Tensor<2>) -> Tensor<2> {
    let [half, n] = odd.dims();
    let pairs: Tensor<3> = Tensor::stack(vec![even.clone().narrow(0, 0, half), odd], 1);
    with_left_over(pairs.reshape([2 * half, n]), &even, half)
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [rows, d] in [[1, 2], [7, 5], [33, 24]] {
            // Entries of size 1 in up to five stages.
            let terms = 100 * (rows + d);
            agree(&[&[rows, d], &[4, d - 1]], terms, |x, fast| {
                let f = if fast { plane_maps } else { composed };
                f(x[0].matrix(), x[1].matrix())
            });
            agree(&[&[d, rows], &[4, d - 1]], terms, |x, fast| {
                let f = if fast { plane_maps_rows } else { composed_rows };
                f(x[0].matrix(), x[1].matrix())
            });
        }
    }
}
