//! Blocks of low rank beside a frozen layer.

use burn::tensor::Tensor;
use engraft_kernels::{BlockLowRank, Mat, Real};

use super::fused::Input;
use super::update::{Base, Seen, Update, beside, changed, updated};

/// s x dW; parameters A [k, d_in / k, r], B [k, r, d_out / k].
#[derive(Debug, Clone)]
struct Blocks {
    scaling: f64,
}

impl Blocks {
    fn kernel<'a, T: Real>(&self, params: &[Input<'a, T>]) -> BlockLowRank<'a, T> {
        let [a, b] = [params[0], params[1]];
        BlockLowRank {
            a: a.data,
            b: b.data,
            blocks: a.shape[0],
            rank: a.shape[2],
            scaling: T::from_f64(self.scaling),
        }
    }
}

impl Update for Blocks {
    fn params(&self) -> usize {
        2
    }

    fn width(&self, params: &[&[usize]]) -> usize {
        params[1][0] * params[1][2]
    }

    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>> {
        let kernel = self.kernel(seen.params);
        vec![kernel.add(seen.x.data, y, seen.x.shape[0])]
    }

    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        _: bool,
    ) -> Vec<Vec<T>> {
        let kernel = self.kernel(seen.params);
        let (ga, gb) = kernel.backward(seen.x.data, &seen.saved[0], g, gx);
        vec![ga, gb]
    }

    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T> {
        let mut y = w.data.to_vec();
        self.kernel(params).add_matrix(&mut y);
        y
    }

    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>> {
        let (ga, gb) = self.kernel(params).backward_matrix(g.data);
        vec![ga, gb]
    }
}

/// y = x W + b + s x dW, where the block of dW from inputs n to outputs j is A_nj B_nj, for tokens
/// x: [tokens, d_in], A: [k, d_in / k, r], B: [k, r, d_out / k]: A_nj is columns j r / k ... of A_n,
/// B_nj rows n r / k ... of B_j. The base (W, b) may be left out. Jung et al., arXiv 2505.20355,
/// section 3.
///
/// On flex x and x A, [tokens, k r], are kept, and no slice of x or y is copied: beyond the frozen
/// layer 2 tokens r (d_in + k d_out) flops forward and twice that backward.
pub fn block_low_rank(
    x: Tensor<2>,
    base: Option<Base>,
    a: Tensor<3>,
    b: Tensor<3>,
    scaling: f64,
) -> Tensor<2> {
    let params = vec![a.into(), b.into()];
    updated(Blocks { scaling }, x, params, base, |x, params, base| {
        let update = composed(x.clone(), params.next(), params.next(), scaling);
        beside(x, update, base)
    })
}

fn composed(x: Tensor<2>, a: Tensor<3>, b: Tensor<3>, scaling: f64) -> Tensor<2> {
    let tokens = x.dims()[0];
    let ([k, inputs, rank], [_, _, outputs]) = (a.dims(), b.dims());
    let narrow = x.reshape([tokens, k, inputs]).swap_dims(0, 1).matmul(a) * scaling;
    // [n, token, j, r / k] to [j, token, n, r / k]: every output block hears of all inputs.
    let exchanged = narrow
        .reshape([k, tokens, k, rank / k])
        .swap_dims(0, 2)
        .reshape([k, tokens, rank]);
    exchanged
        .matmul(b)
        .swap_dims(0, 1)
        .reshape([tokens, k * outputs])
}

/// W + s dW for W: [d_in, d_out] and the blocks of [`block_low_rank`].
pub fn block_low_rank_update(
    weight: Tensor<2>,
    a: Tensor<3>,
    b: Tensor<3>,
    scaling: f64,
) -> Tensor<2> {
    let params = vec![a.into(), b.into()];
    changed(Blocks { scaling }, weight, params, |params| {
        matrix(params.next(), params.next()) * scaling
    })
}

fn matrix(a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let ([k, inputs, rank], [_, _, outputs]) = (a.dims(), b.dims());
    // Blocks of A and B by input block n and output block j: [n, j, ..].
    let a = a.reshape([k, inputs, k, rank / k]);
    let b = b.reshape([k, k, rank / k, outputs]);
    a.swap_dims(1, 2)
        .matmul(b.swap_dims(0, 1))
        .swap_dims(1, 2)
        .reshape([k * inputs, k * outputs])
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    /// Blocks, rank of one, inputs and outputs of a block.
    const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [2, 3, 5, 4], [3, 2, 4, 7]];

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [k, piece, inputs, outputs] in SHAPES {
            let (a, b) = ([k, inputs, k * piece], [k, k * piece, outputs]);
            let shapes: [&[usize]; 5] = [
                &[9, k * inputs],
                &a,
                &b,
                &[k * inputs, k * outputs],
                &[k * outputs],
            ];
            let terms = k * (inputs + outputs) * piece + 9;
            agree(&shapes, terms, |x, fast| {
                let (inputs, w, bias) = (x[0].matrix(), x[3].matrix(), x[4].vector());
                let (a, b) = (x[1].tensor(), x[2].tensor());
                if fast {
                    return block_low_rank(inputs, Some((w, Some(bias))), a, b, 0.7);
                }
                inputs.clone().matmul(w) + bias.unsqueeze() + composed(inputs, a, b, 0.7)
            });
            agree(&[shapes[3], &a, &b], k * (inputs + outputs), |x, fast| {
                let (a, b) = (x[1].tensor(), x[2].tensor());
                if fast {
                    block_low_rank_update(x[0].matrix(), a, b, 0.7)
                } else {
                    x[0].matrix() + matrix(a, b) * 0.7
                }
            });
        }
    }
}
