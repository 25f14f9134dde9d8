//! Block-diagonal products.

use burn::tensor::Tensor;
use engraft_kernels::{BlockDiagonal, Real};

use super::fused::{Input, Kernel, Returned, fused};

/// Largest block for which the kernel, which does not pack its operands, is ahead of a product of
/// matrices for each block.
const LARGEST: usize = 128;

fn shape_of<T>(r: &Input<'_, T>) -> BlockDiagonal {
    BlockDiagonal {
        blocks: r.shape[0],
        size: r.shape[1],
    }
}

/// x diag(R); inputs x: [tokens, n b] and R: [n, b, b].
#[derive(Debug, Clone)]
struct Rotate;

impl Kernel for Rotate {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        wanted[1 - input]
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        shape_of(&x[1]).apply(x[0].data, x[1].data, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let blocks = shape_of(&x[1]);
        let mut gx = wanted[0].then(|| vec![T::ZERO; gy.len()]);
        let gr = match (wanted[1], &mut gx) {
            (true, Some(gx)) => Some(blocks.backward(x[0].data, gy, Some((x[1].data, gx)))),
            (true, None) => Some(blocks.backward(x[0].data, gy, None)),
            (false, Some(gx)) => {
                blocks.backward_input(gy, x[1].data, gx);
                None
            }
            (false, None) => None,
        };
        vec![gx, gr]
    }
}

/// diag(R) W; inputs W: [n b, columns] and R: [n, b, b].
#[derive(Debug, Clone)]
struct RotateRows;

impl Kernel for RotateRows {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        shape_of(&x[1]).apply_left(x[1].data, x[0].data, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let mut gw = vec![T::ZERO; gy.len()];
        let gr = shape_of(&x[1]).backward_left(x[1].data, x[0].data, gy, &mut gw);
        vec![Some(gw), Some(gr)]
    }
}

/// x diag(R) for tokens x: [tokens, d] and blocks R: [n, b, b] with n b = d, in 2 tokens d b flops.
/// A single block [1, b, b] is shared by all d / b places.
///
/// Backward, one pass over x and the gradient of the result gives both gradients; only x and R are
/// kept.
pub fn rotate(x: Tensor<2>, blocks: Tensor<3>) -> Tensor<2> {
    let [tokens, d] = x.dims();
    let [n, b, _] = blocks.dims();
    if n * b != d {
        // A shared block sees the places as tokens.
        return rotate(x.reshape([tokens * (d / b), b]), blocks).reshape([tokens, d]);
    }
    if b > LARGEST {
        return composed(x, blocks);
    }
    fused(Rotate, vec![x.into(), blocks.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next())
    })
}

/// diag(R) W for a weight W: [d, d_out] and blocks R: [n, b, b]; see [`rotate`]. Blocks of rows are
/// multiplied where they lie: one pass over W.
pub fn rotate_rows(weight: Tensor<2>, blocks: Tensor<3>) -> Tensor<2> {
    let [d, d_out] = weight.dims();
    let [n, b, _] = blocks.dims();
    let blocks = if n * b == d {
        blocks
    } else {
        blocks.repeat_dim(0, d / b)
    };
    if b > LARGEST {
        return composed_rows(weight, blocks, [d, d_out]);
    }
    fused(RotateRows, vec![weight.into(), blocks.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed_rows(inputs.next(), inputs.next(), [d, d_out])
    })
}

pub(super) fn composed(x: Tensor<2>, blocks: Tensor<3>) -> Tensor<2> {
    let ([tokens, d], [n, b, _]) = (x.dims(), blocks.dims());
    x.reshape([tokens, n, b])
        .swap_dims(0, 1)
        .matmul(blocks)
        .swap_dims(0, 1)
        .reshape([tokens, d])
}

fn composed_rows(weight: Tensor<2>, blocks: Tensor<3>, dims: [usize; 2]) -> Tensor<2> {
    let [n, b, _] = blocks.dims();
    blocks.matmul(weight.reshape([n, b, dims[1]])).reshape(dims)
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [tokens, n, b] in [[1, 1, 1], [7, 3, 5], [70, 9, 8], [33, 2, 32], [3, 2, 130]] {
            let shapes: [&[usize]; 2] = [&[tokens, n * b], &[n, b, b]];
            agree(&shapes, b + tokens, |x, fast| {
                let f = if fast { rotate } else { composed };
                f(x[0].matrix(), x[1].tensor())
            });
            let shapes: [&[usize]; 2] = [&[n * b, tokens], &[n, b, b]];
            agree(&shapes, b + tokens, |x, fast| {
                let dims = [n * b, tokens];
                if fast {
                    rotate_rows(x[0].matrix(), x[1].tensor())
                } else {
                    composed_rows(x[0].matrix(), x[1].tensor(), dims)
                }
            });
        }
    }

    #[test]
    fn a_shared_block_is_at_every_place() {
        agree(&[&[5, 12], &[1, 4, 4]], 20, |x, fast| {
            let shared = x[1].tensor::<3>();
            if fast {
                rotate(x[0].matrix(), shared)
            } else {
                composed(x[0].matrix(), shared.repeat_dim(0, 3))
            }
        });
        agree(&[&[12, 5], &[1, 4, 4]], 20, |x, fast| {
            let shared = x[1].tensor::<3>();
            if fast {
                rotate_rows(x[0].matrix(), shared)
            } else {
                composed_rows(x[0].matrix(), shared.repeat_dim(0, 3), [12, 5])
            }
        });
    }
}
