//! One shard of rows that a whole layer shares, beside it.

use burn::tensor::Tensor;
use engraft_kernels::{
    Mat, Onto, Real, add_shard, fold_blocks, matmul as product, multiplied, unfold_blocks,
};

use super::beside::{Base, Update, beside};
use super::fused::{Input, Kernel, Returned, fused};

/// fold(x) D, the outputs repeated `times`; parameter D [r, d].
#[derive(Debug, Clone)]
struct Shards {
    times: usize,
}

impl Update for Shards {
    fn params(&self) -> usize {
        1
    }

    fn width(&self, params: &[&[usize]]) -> usize {
        params[0][1] * self.times
    }

    fn keeps_x(&self) -> bool {
        false
    }

    fn add<T: Real>(&self, x: Input<'_, T>, params: &[Input<'_, T>], y: &mut [T]) -> Vec<Vec<T>> {
        let ([tokens, d_in], [r, d]) = (x.dims(), params[0].dims());
        let mut folded = vec![T::ZERO; tokens * r];
        fold_blocks(x.data, d_in, &mut folded, r);
        let narrow = Mat::new(&folded, tokens, r);
        for start in (0..self.times * d).step_by(d.max(1)).filter(|_| tokens > 0) {
            let y = (&mut y[start..], self.times * d);
            product(y, Onto::Present, narrow, params[0].mat(), T::ONE);
        }
        vec![folded]
    }

    fn backward<T: Real>(
        &self,
        x: Input<'_, T>,
        params: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        gx: Option<&mut [T]>,
    ) -> Vec<Vec<T>> {
        let ([tokens, d_in], [r, d]) = (x.dims(), params[0].dims());
        // The gradient of repeated outputs is a sum, that is a fold.
        let mut summed = Vec::new();
        let gy = if self.times == 1 {
            gy
        } else {
            summed.resize(tokens * d, T::ZERO);
            fold_blocks(gy, self.times * d, &mut summed, d);
            &summed
        };
        let gy = Mat::new(gy, tokens, d);
        if let Some(gx) = gx {
            let g_folded = multiplied(gy, params[0].mat().t(), T::ONE);
            unfold_blocks(&g_folded, r, gx, d_in);
        }
        vec![multiplied(Mat::new(&saved[0], tokens, r).t(), gy, T::ONE)]
    }
}

/// y = x W + b + fold(x) D, where fold(x) adds the inputs i, i + r, i + 2 r, ... for tokens x:
/// [tokens, d_in] and D: [r, d]; outputs beyond d repeat those before, `times` in all. The base
/// (W, b) may be left out. Kang and Yin, arXiv 2409.15371, section 3.
///
/// On flex only fold(x), [tokens, r], is kept; beyond the frozen layer tokens (d_in + 2 r d times)
/// flops forward and twice that backward.
pub fn shards(x: Tensor<2>, base: Option<Base>, shard: Tensor<2>, times: usize) -> Tensor<2> {
    beside(
        Shards { times },
        x,
        vec![shard.into()],
        base,
        |x, params| composed(x, params.next(), times),
    )
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

/// W + D repeated along both sides; inputs W, D.
#[derive(Debug, Clone)]
struct ShardUpdate;

impl Kernel for ShardUpdate {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let ([_, columns], [_, d]) = (x[0].dims(), x[1].dims());
        add_shard(x[0].data, columns, x[1].data, d, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let ([rows, columns], [r, d]) = (x[0].dims(), x[1].dims());
        let gd = wanted[1].then(|| {
            let mut summed = vec![T::ZERO; rows * d];
            fold_blocks(gy, columns, &mut summed, d);
            let mut gd = vec![T::ZERO; r * d];
            // The rows i, i + r, ... one after the other are the blocks of one long row.
            fold_blocks(&summed, rows * d, &mut gd, r * d);
            gd
        });
        vec![wanted[0].then(|| gy.to_vec()), gd]
    }
}

/// W + D for W: [d_in, d_out], D: [r, d] repeated along both sides: one pass over W.
pub fn shard_update(weight: Tensor<2>, shard: Tensor<2>) -> Tensor<2> {
    fused(ShardUpdate, vec![weight.into(), shard.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        repeated(inputs.next(), inputs.next())
    })
}

fn repeated(weight: Tensor<2>, shard: Tensor<2>) -> Tensor<2> {
    let ([rows, columns], [r, d]) = (weight.dims(), shard.dims());
    weight
        + shard
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
                let f = if fast { shard_update } else { repeated };
                f(x[0].matrix(), x[1].matrix())
            });
        }
    }
}
