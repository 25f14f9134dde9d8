//! The frozen linear layer.

use burn::tensor::Tensor;
use engraft_kernels::{Mat, Onto, Real, column_sums, matmul as product, multiplied};

use super::fused::{Input, Kernel, Operand, Returned, fused};

/// x W + b; inputs x, W and, perhaps, b.
#[derive(Debug, Clone)]
struct Linear;

impl Kernel for Linear {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][0], shapes[1][1]]
    }

    fn takes_transposed(&self, input: usize) -> bool {
        input < 2
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        match input {
            0 => wanted[1],
            1 => wanted[0],
            _ => false,
        }
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], len: usize) -> Vec<T> {
        biased(x.get(2).map(|bias| bias.data), len)
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        frozen(x[0].mat(), x[1].mat(), x.get(2).map(|bias| bias.data), y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let ([tokens, d_in], [_, d_out]) = (x[0].dims(), x[1].dims());
        let gy = Mat::new(gy, tokens, d_out);
        let gx = wanted[0].then(|| multiplied(gy, x[1].mat().t(), T::ONE));
        let gw = wanted[1].then(|| multiplied(x[0].mat().t(), gy, T::ONE));
        debug_assert!(gw.as_ref().is_none_or(|gw| gw.len() == d_in * d_out));
        let gb = (wanted.get(2) == Some(&true)).then(|| column_sums(gy.data, d_out));
        match wanted.len() {
            2 => vec![gx, gw],
            _ => vec![gx, gw, gb],
        }
    }
}

/// What y starts from: the bias in every row, or zeros.
pub(super) fn biased<T: Real>(bias: Option<&[T]>, len: usize) -> Vec<T> {
    match bias {
        Some(bias) if !bias.is_empty() => bias.repeat(len / bias.len()),
        _ => vec![T::ZERO; len],
    }
}

/// y + b.
pub(super) fn with_bias(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// y = x W, or y + x W where y holds the bias already.
pub(super) fn frozen<T: Real>(x: Mat<'_, T>, w: Mat<'_, T>, bias: Option<&[T]>, y: &mut [T]) {
    let onto = match bias {
        Some(_) => Onto::Present,
        None => Onto::Nothing,
    };
    product((y, w.columns), onto, x, w, T::ONE);
}

/// y = x W + b for tokens x: [tokens, d_in], W: [d_in, d_out], b: `[d_out]`.
///
/// On flex one product and, backward, one for each gradient that is asked for: for a frozen W that
/// is g W^T alone, and x is not kept. Neither operand is transposed in memory. 2 tokens d_in d_out
/// flops a product.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let mut inputs: Vec<Operand> = vec![x.into(), weight.into()];
    inputs.extend(bias.map(Operand::from));
    fused(Linear, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        let y = inputs.next::<2>().matmul(inputs.next());
        with_bias(y, inputs.optional())
    })
}

/// a b for a: [m, k], b: [k, n]: [`linear`] without a bias.
pub fn matmul(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    linear(a, b, None)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{agree, draw};
    use super::*;

    fn composed(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        with_bias(x.matmul(weight), bias)
    }

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [tokens, d_in, d_out] in [[1, 1, 1], [7, 5, 3], [33, 40, 17]] {
            agree(
                &[&[tokens, d_in], &[d_in, d_out], &[d_out]],
                d_in + tokens,
                |x, fast| {
                    let f = if fast { linear } else { composed };
                    f(x[0].matrix(), x[1].matrix(), Some(x[2].vector()))
                },
            );
            agree(
                &[&[tokens, d_in], &[d_out, d_in]],
                d_in + tokens,
                |x, fast| {
                    let f = if fast { linear } else { composed };
                    f(x[0].matrix(), x[1].matrix().transpose(), None)
                },
            );
        }
    }

    #[test]
    fn a_frozen_weight_has_no_gradient_and_the_input_of_the_model_none() {
        let device = burn::tensor::Device::default().autodiff();
        let [x, w, b] = [
            draw("x", &[4, 3], &device),
            draw("w", &[3, 2], &device),
            draw("b", &[1, 2], &device),
        ];
        let bias = b.clone().reshape([2]).require_grad();
        let grads = linear(x.clone(), w.clone(), Some(bias.clone()))
            .sum()
            .backward();
        assert!(x.grad(&grads).is_none() && w.grad(&grads).is_none());
        assert_eq!(
            bias.grad(&grads).unwrap().to_data(),
            Tensor::<1>::from_data([4.0f32, 4.0], &device)
                .cast(x.dtype())
                .to_data()
        );
    }
}
