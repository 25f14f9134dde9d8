//! Butterfly products.

use burn::tensor::Tensor;
use engraft_kernels::{Butterfly, Real};

use super::fused::{Input, Kernel, Returned, fused};
use super::rotation::{composed as rotate_composed, rotate, rotate_rows};

/// Largest block that factors are multiplied out to. Up to here a product with the whole block costs
/// no more time than its factors one after the other, which have shorter runs and more passes.
const SIDE: usize = 64;

/// Consecutive factors s, ..., s + q - 1 of a butterfly.
///
/// They exchange values between half blocks whose numbers differ in the bits s, ..., s + q - 1: with
/// the half blocks of a row as a grid [d / (2^(s + q) h), 2^q, 2^s, h], h = b / 2, in which the two
/// middle axes are swapped, their product is block-diagonal with blocks of side 2^q h.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: usize,
    factors: usize,
}

impl Run {
    /// All m factors with blocks of side b in runs that may be multiplied out.
    fn all(m: usize, b: usize) -> Vec<Self> {
        let most = (0..).take_while(|q| b << q <= SIDE).count().max(1);
        (0..m)
            .step_by(most)
            .map(|first| Self {
                first,
                factors: most.min(m - first),
            })
            .collect()
    }

    /// x with the columns of each block together: x [rows, d].
    fn there(self, x: Tensor<2>, b: usize) -> Tensor<2> {
        self.swap(x, b, [1 << self.factors, 1 << self.first])
    }

    /// Undoes [`there`](Self::there).
    fn back(self, x: Tensor<2>, b: usize) -> Tensor<2> {
        self.swap(x, b, [1 << self.first, 1 << self.factors])
    }

    fn swap(self, x: Tensor<2>, b: usize, [rows, columns]: [usize; 2]) -> Tensor<2> {
        if self.first == 0 {
            return x;
        }
        let ([tokens, d], half) = (x.dims(), b / 2);
        x.reshape([tokens, d / (rows * columns * half), rows, columns, half])
            .swap_dims(2, 3)
            .reshape([tokens, d])
    }

    /// The blocks of the product, [n / 2^(q-1), 2^(q-1) b, 2^(q-1) b], of all factors r [m, n, b, b].
    fn product(self, r: &Tensor<4>) -> Tensor<3> {
        let [_, n, b, _] = r.dims();
        let (q, group) = (self.factors, 1 << (self.factors - 1));
        let r = r.clone().narrow(0, self.first, q);
        if q == 1 {
            return r.reshape([n, b, b]);
        }
        let lanes = 1 << self.first;
        let r: Tensor<4> = r
            .reshape([q, n / (group * lanes), group, lanes, b * b])
            .swap_dims(2, 3)
            .reshape([q, n, b, b]);
        fused(Product, vec![r.into()])
            .unwrap_or_else(|inputs| composed_product(Returned::new(inputs).next()))
    }
}

/// The blocks of B_(q-1) ... B_0; input r: [q, n, b, b].
#[derive(Debug, Clone)]
struct Product;

fn shape_of(r: &[usize]) -> Butterfly {
    Butterfly {
        factors: r[0],
        blocks: r[1],
        size: r[2],
    }
}

impl Kernel for Product {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        let shape = shape_of(shapes[0]);
        let side = shape.side();
        vec![shape.blocks * shape.size / side, side, side]
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        shape_of(x[0].shape).apply(x[0].data, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        vec![Some(shape_of(x[0].shape).backward(x[0].data, gy))]
    }
}

/// x R for tokens x: [tokens, d] and R = B_(m-1) ... B_1 B_0, B_s = P_s diag(R_s) P_s^T of the blocks
/// r: [m, n, b, b], n b = d; n is a multiple of 2^(m-1), and b is even unless m = 1.
///
/// The two halves of a block of B_s lie 2^s half blocks apart: d is cut into groups of 2^s blocks, a
/// group into half blocks, and its block h consists of its half blocks h and h + 2^s. Liu et al.,
/// arXiv 2311.06243, section 4.
///
/// Factors are multiplied out, once for all tokens, as far as their product has blocks of at most
/// 64: log2(64 / b) + 1 of them make one pass over x, of 128 tokens d flops at most, and nothing but
/// the input of each pass is kept.
pub fn butterfly(x: Tensor<2>, r: Tensor<4>) -> Tensor<2> {
    let [m, _, b, _] = r.dims();
    Run::all(m, b).into_iter().rev().fold(x, |x, run| {
        run.back(rotate(run.there(x, b), run.product(&r)), b)
    })
}

/// R W for a weight W: [d, d_out]; see [`butterfly`].
pub fn butterfly_rows(weight: Tensor<2>, r: Tensor<4>) -> Tensor<2> {
    let [m, _, b, _] = r.dims();
    Run::all(m, b).into_iter().fold(weight, |w, run| {
        let product = run.product(&r);
        if run.first == 0 {
            return rotate_rows(w, product);
        }
        let rows = run.there(w.transpose(), b);
        run.back(rotate(rows, product.swap_dims(1, 2)), b)
            .transpose()
    })
}

/// The product factor by factor.
fn composed(x: Tensor<2>, r: Tensor<4>) -> Tensor<2> {
    let [m, n, b, _] = r.dims();
    (0..m).rev().fold(x, |x, first| {
        let run = Run { first, factors: 1 };
        let blocks = r.clone().narrow(0, first, 1).reshape([n, b, b]);
        run.back(rotate_composed(run.there(x, b), blocks), b)
    })
}

/// [`composed`] of one identity for each block of the product.
fn composed_product(r: Tensor<4>) -> Tensor<3> {
    let [q, n, b, _] = r.dims();
    let side = b << (q - 1);
    let groups = n * b / side;
    let identity = crate::cayley::eye(side, &r.device(), r.dtype());
    let identity = identity.reshape([side, side]).repeat_dim(1, groups);
    composed(identity, r)
        .reshape([side, groups, side])
        .swap_dims(0, 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_those_of_one_factor_after_the_other() {
        // The last two need more than one run.
        for [tokens, m, n, b] in [
            [5, 1, 3, 3],
            [7, 2, 4, 4],
            [9, 3, 8, 2],
            [4, 2, 4, 48],
            [3, 7, 64, 2],
        ] {
            let shapes: [&[usize]; 2] = [&[tokens, n * b], &[m, n, b, b]];
            let terms = (tokens + b) << m;
            agree(&shapes, terms, |x, fast| {
                let f = if fast { butterfly } else { composed };
                f(x[0].matrix(), x[1].tensor())
            });
            agree(&[&[m, n, b, b]], terms, |x, fast| {
                let r = x[0].tensor::<4>();
                let d = n * b;
                let identity = crate::cayley::eye(d, &r.device(), r.dtype()).reshape([d, d]);
                if fast {
                    butterfly_rows(identity, r)
                } else {
                    composed(identity, r)
                }
            });
        }
    }

    #[test]
    fn the_halves_of_a_block_lie_two_to_the_factor_apart() {
        let device = burn::tensor::Device::default();
        let (d, b) = (32usize, 4usize);
        let row = crate::bridge::tensor(
            (0..d).map(|i| i as f64).collect(),
            [1, d],
            &device,
            burn::tensor::DType::F64,
        );
        for s in 0..4 {
            let run = Run {
                first: s,
                factors: 1,
            };
            let there = run.there(row.clone(), b);
            let group = b << s;
            for (place, value) in crate::bridge::values(&there).into_iter().enumerate() {
                let (start, inside) = (place / group * group, place % group);
                let (h, parity, within) = (inside / b, inside % b / 2, inside % 2);
                assert_eq!(value as usize, start + (parity * (1 << s) + h) * 2 + within);
            }
            let values = |x| crate::bridge::values::<2>(x);
            assert_eq!(values(&run.back(there, b)), values(&row));
        }
    }
}
