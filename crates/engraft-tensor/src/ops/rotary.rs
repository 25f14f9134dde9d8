//! Rotary position embeddings with their own kernel.

use burn::tensor::Tensor;
use engraft_kernels::{Real, Turn, turn_pairs};

use super::fused::{Input, Kernel, Returned, fused};

/// Inputs x, cosines and sines.
#[derive(Debug, Clone)]
struct Rotary;

fn turned<T: Real>(x: &[Input<'_, T>], values: &[T], turn: Turn, y: &mut [T]) {
    let (heads, half) = (x[0].shape[2], x[0].shape[3] / 2);
    turn_pairs(values, [x[1].data, x[2].data], [heads, half], turn, y);
}

impl Kernel for Rotary {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, _: &[bool]) -> bool {
        input > 0
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        turned(x, x[0].data, Turn::Forward, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let mut gx = vec![T::ZERO; gy.len()];
        turned(x, gy, Turn::Backward, &mut gx);
        vec![Some(gx), None, None]
    }
}

/// Turns number j of each head of x: [batch, tokens, heads, width] together with number j + width / 2
/// by an angle whose cosine and sine, perhaps scaled, are in `cos` and `sin`, [batch or 1, tokens,
/// width / 2]. These are constants, to which no gradient flows. Su et al., arXiv 2104.09864.
///
/// On flex one pass over x, and one backward that keeps nothing but the angles.
///
/// # Panics
/// Unless the shapes fit.
pub fn rotary(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let inputs = vec![x.into(), cos.detach().into(), sin.detach().into()];
    fused(Rotary, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next(), inputs.next())
    })
}

fn composed(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let half = cos.dims()[2];
    let (cos, sin) = (cos.unsqueeze_dim::<4>(2), sin.unsqueeze_dim::<4>(2));
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        3,
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for ([batch, tokens, heads, half], rows) in
            [([1, 1, 1, 1], 1), ([2, 5, 3, 4], 1), ([3, 2, 2, 3], 3)]
        {
            let angles = rows * tokens * half;
            agree(&[&[batch, tokens, heads, 2 * half]], 4, |x, fast| {
                let x = x[0].tensor::<4>();
                let angle = Tensor::<1, burn::tensor::Int>::arange(0..angles as i64, &x.device());
                let angle = angle.float().cast(x.dtype()).reshape([rows, tokens, half]);
                let run = if fast { rotary } else { composed };
                run(x, angle.clone().cos() * 1.5, angle.sin() * 1.5)
            });
        }
    }
}
