//! The low-rank update of a linear layer.

use burn::tensor::Tensor;
use engraft_kernels::{Mat, Onto, Real, low_rank_updated, matmul as product, multiplied};

use super::fused::Input;
use super::update::{Seen, Update, beside, changed, updated};

/// U = s A B.
#[derive(Debug, Clone)]
struct LowRank {
    scaling: f64,
}

impl Update for LowRank {
    fn params(&self) -> usize {
        2
    }

    fn width(&self, params: &[&[usize]]) -> usize {
        params[1][1]
    }

    fn takes_transposed(&self) -> bool {
        true
    }

    /// Returns s x A.
    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>> {
        let [a, b] = [seen.params[0], seen.params[1]];
        let [rank, d_out] = b.dims();
        let narrow = multiplied(seen.x.mat(), a.mat(), T::from_f64(self.scaling));
        let update = Mat::new(&narrow, seen.x.shape[0], rank);
        product((y, d_out), Onto::Present, update, b.mat(), T::ONE);
        vec![narrow]
    }

    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        trained: bool,
    ) -> Vec<Vec<T>> {
        let [a, b] = [seen.params[0], seen.params[1]];
        let ([tokens, d_in], [rank, d_out]) = (seen.x.dims(), b.dims());
        let g = Mat::new(g, tokens, d_out);
        // g B^T serves both A and x.
        let g_narrow = multiplied(g, b.mat().t(), T::from_f64(self.scaling));
        let g_narrow = Mat::new(&g_narrow, tokens, rank);
        if let Some(gx) = gx {
            product((gx, d_in), Onto::Present, g_narrow, a.mat().t(), T::ONE);
        }
        if !trained {
            return Vec::new();
        }
        let narrow = Mat::new(&seen.saved[0], tokens, rank);
        vec![
            multiplied(seen.x.mat().t(), g_narrow, T::ONE),
            multiplied(narrow.t(), g, T::ONE),
        ]
    }

    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T> {
        let ([rows, columns], rank) = (w.dims(), params[0].shape[1]);
        let [a, b] = [params[0].data, params[1].data];
        let scaling = T::from_f64(self.scaling);
        low_rank_updated(w.data, [rows, rank, columns], a, b, scaling)
    }

    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>> {
        let [a, b] = [params[0], params[1]];
        let scaling = T::from_f64(self.scaling);
        vec![
            multiplied(g, b.mat().t(), scaling),
            multiplied(a.mat().t(), g, scaling),
        ]
    }
}

/// y = x W + b + s (x A) B for tokens x: [tokens, d_in], W: [d_in, d_out], b: `[d_out]`, A: [d_in, r],
/// B: [r, d_out]. Hu et al., arXiv 2106.09685, section 4.1.
///
/// On flex the update is added to the frozen product in place, and only x and s x A, [tokens, r],
/// are kept; backward, g B^T serves both A and x, and no gradient of a frozen W is formed. Beyond
/// the frozen layer: 4 tokens r (d_in + d_out) flops forward and twice that backward.
pub fn low_rank(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    a: Tensor<2>,
    b: Tensor<2>,
    scaling: f64,
) -> Tensor<2> {
    let params = vec![a.into(), b.into()];
    let base = Some((weight, bias));
    updated(LowRank { scaling }, x, params, base, |x, params, base| {
        let update = composed(x.clone(), params.next(), params.next(), scaling);
        beside(x, update, base)
    })
}

/// s (x A) B.
fn composed(x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Tensor<2> {
    (x.matmul(a) * scaling).matmul(b)
}

/// W + s A B for W: [d_in, d_out], A: [d_in, r], B: [r, d_out]: up to rank 32 one pass that reads W
/// and writes the sum.
pub fn low_rank_update(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Tensor<2> {
    let params = vec![a.into(), b.into()];
    changed(LowRank { scaling }, weight, params, |params| {
        params.next::<2>().matmul(params.next()) * scaling
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    fn reference(
        x: Tensor<2>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        a: Tensor<2>,
        b: Tensor<2>,
        scaling: f64,
    ) -> Tensor<2> {
        beside(x.clone(), composed(x, a, b, scaling), Some((weight, bias)))
    }

    const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [7, 5, 2, 3], [33, 40, 8, 17]];

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [tokens, d_in, rank, d_out] in SHAPES {
            let shapes: [&[usize]; 5] = [
                &[tokens, d_in],
                &[d_in, d_out],
                &[d_in, rank],
                &[rank, d_out],
                &[d_out],
            ];
            agree(&shapes, d_in * rank + tokens, |x, fast| {
                let f = if fast { low_rank } else { reference };
                let bias = Some(x[4].vector());
                f(
                    x[0].matrix(),
                    x[1].matrix(),
                    bias,
                    x[2].matrix(),
                    x[3].matrix(),
                    0.7,
                )
            });
        }
    }

    #[test]
    fn factors_may_be_stored_transposed_and_the_bias_absent() {
        agree(&[&[9, 6], &[4, 6], &[3, 6], &[4, 3]], 40, |x, fast| {
            let f = if fast { low_rank } else { reference };
            let turned = |at: usize| x[at].matrix().transpose();
            f(x[0].matrix(), turned(1), None, turned(2), turned(3), -1.5)
        });
    }

    #[test]
    fn the_updated_weight_equals_the_composition() {
        for [_, d_in, rank, d_out] in SHAPES {
            agree(
                &[&[d_in, d_out], &[d_in, rank], &[rank, d_out]],
                d_in + d_out,
                |x, fast| {
                    let [w, a, b] = [x[0].matrix(), x[1].matrix(), x[2].matrix()];
                    if fast {
                        low_rank_update(w, a, b, 0.3)
                    } else {
                        w + a.matmul(b) * 0.3
                    }
                },
            );
        }
    }
}
