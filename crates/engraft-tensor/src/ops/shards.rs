//! One shard of rows that a whole layer shares, beside it.

use burn::tensor::Tensor;
use engraft_kernels::{
    Mat, Onto, Real, add_shard, fold_blocks, matmul as product, multiplied, unfold_blocks,
};

use super::fused::Input;
use super::update::{Base, Seen, Update, beside, changed, updated};

/// fold(x) D, the outputs repeated `times`; parameter D [r, d].
#[derive(Debug, Clone)]
struct Shards {
    times: usize,
}

impl Update for Shards {
    fn width(&self, params: &[&[usize]]) -> usize {
        params[0][1] * self.times
    }

    fn keeps_x(&self) -> bool {
        false
    }

    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>> {
        let shard = seen.params[0];
        let ([tokens, d_in], [r, d]) = (seen.x.dims(), shard.dims());
        let mut folded = vec![T::ZERO; tokens * r];
        fold_blocks(seen.x.data, d_in, &mut folded, r);
        let narrow = Mat::new(&folded, tokens, r);
        for start in (0..self.times * d).step_by(d.max(1)).filter(|_| tokens > 0) {
            let y = (&mut y[start..], self.times * d);
            product(y, Onto::Present, narrow, shard.mat(), T::ONE);
        }
        vec![folded]
    }

    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        trained: bool,
    ) -> Vec<Vec<T>> {
        let shard = seen.params[0];
        let ([tokens, d_in], [r, d]) = (seen.x.dims(), shard.dims());
        // The gradient of repeated outputs is a sum, that is a fold.
        let mut summed = Vec::new();
        let g = if self.times == 1 {
            g
        } else {
            summed.resize(tokens * d, T::ZERO);
            fold_blocks(g, self.times * d, &mut summed, d);
            &summed
        };
        let g = Mat::new(g, tokens, d);
        if let Some(gx) = gx {
            let g_folded = multiplied(g, shard.mat().t(), T::ONE);
            unfold_blocks(&g_folded, r, gx, d_in);
        }
        let gradient = || multiplied(Mat::new(&seen.saved[0], tokens, r).t(), g, T::ONE);
        trained.then(gradient).into_iter().collect()
    }

    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T> {
        let mut y = vec![T::ZERO; w.data.len()];
        let d = params[0].shape[1];
        add_shard(w.data, w.shape[1], params[0].data, d, &mut y);
        y
    }

    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>> {
        let [r, d] = params[0].dims();
        let mut summed = vec![T::ZERO; g.rows * d];
        fold_blocks(g.data, g.columns, &mut summed, d);
        let mut gradient = vec![T::ZERO; r * d];
        // The rows i, i + r, ... one after the other are the blocks of one long row.
        fold_blocks(&summed, g.rows * d, &mut gradient, r * d);
        vec![gradient]
    }
}

/// y = x W + b + fold(x) D, where fold(x) adds the inputs i, i + r, i + 2 r, ... for tokens x:
/// [tokens, d_in] and D: [r, d]; outputs beyond d repeat those before, `times` in all. The base
/// (W, b) may be left out. Kang and Yin, arXiv 2409.15371, section 3.
///
/// On flex only fold(x), [tokens, r], is kept; beyond the frozen layer tokens (d_in + 2 r d times)
/// flops forward and twice that backward.
pub fn shards(x: Tensor<2>, base: Option<Base>, shard: Tensor<2>, times: usize) -> Tensor<2> {
    let params = vec![shard.into()];
    updated(Shards { times }, x, params, base, |x, params, base| {
        beside(x.clone(), composed(x, params.next(), times), base)
    })
}

fn composed(x: Tensor<2>, shard: Tensor<2>, times: usize) -> Tensor<2> {
    let ([tokens, d_in], [r, _]) = (x.dims(), shard.dims());
    let blocks = d_in.div_ceil(r);
    let missing = blocks * r - d_in;
    let x = if missing > 0 {
        let padding = Tensor::zeros([tokens, missing], (&x.device(), x.dtype()));
        Tensor::cat(vec![x, padding], 1)
    } else {
        x
    };
    let folded = x
        .reshape([tokens, blocks, r])
        .sum_dim(1)
        .squeeze_dim::<2>(1);
    folded.matmul(shard).repeat_dim(1, times)
}

/// W + D for W: [d_in, d_out], D: [r, d] repeated along both sides: one pass over W.
pub fn shard_update(weight: Tensor<2>, shard: Tensor<2>) -> Tensor<2> {
    let shape = weight.dims();
    let times = shape[1] / shard.dims()[1].max(1);
    changed(Shards { times }, weight, vec![shard.into()], |params| {
        repeated(shape, params.next())
    })
}

fn repeated([rows, columns]: [usize; 2], shard: Tensor<2>) -> Tensor<2> {
    let [r, d] = shard.dims();
    shard
        .repeat(&[rows.div_ceil(r), columns / d])
        .narrow(0, 0, rows)
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    /// Inputs, rows and columns of the shard, repetitions.
    const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [12, 4, 7, 1], [17, 5, 3, 4]];

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [d_in, r, d, times] in SHAPES {
            let shapes: [&[usize]; 4] = [&[9, d_in], &[r, d], &[d_in, d * times], &[d * times]];
            agree(&shapes, d_in + d * times + 9 * r, |x, fast| {
                let [inputs, shard, w] = [0, 1, 2].map(|at| x[at].matrix());
                let bias = x[3].vector();
                if fast {
                    return shards(inputs, Some((w, Some(bias))), shard, times);
                }
                inputs.clone().matmul(w) + bias.unsqueeze() + composed(inputs, shard, times)
            });
            agree(
                &[&[9, d_in], &[r, d]],
                d_in + d * times + 9 * r,
                |x, fast| {
                    let [inputs, shard] = [0, 1].map(|at| x[at].matrix());
                    if fast {
                        shards(inputs, None, shard, times)
                    } else {
                        composed(inputs, shard, times)
                    }
                },
            );
        }
    }

    #[test]
    fn the_updated_weight_equals_the_composition() {
        for [d_in, r, d, times] in SHAPES {
            agree(&[&[d_in, d * times], &[r, d]], d_in * times, |x, fast| {
                let [w, shard] = [0, 1].map(|at| x[at].matrix());
                if fast {
                    shard_update(w, shard)
                } else {
                    w + repeated([d_in, d * times], shard)
                }
            });
        }
    }
}
