//! Elementwise activations with their own kernels.

use burn::tensor::{Tensor, activation};
use engraft_kernels::Real;

use super::fused::{Input, Kernel, Returned, fused};

/// y = f(x), number by number.
#[derive(Debug, Clone, Copy)]
enum Activation {
    Gelu,
    Silu,
    Sigmoid,
    Tanh,
    Relu,
}

impl Kernel for Activation {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let run = match self {
            Self::Gelu => engraft_kernels::gelu,
            Self::Silu => engraft_kernels::silu,
            Self::Sigmoid => engraft_kernels::sigmoid,
            Self::Tanh => engraft_kernels::tanh,
            Self::Relu => engraft_kernels::relu,
        };
        run(x[0].data, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let run = match self {
            Self::Gelu => engraft_kernels::gelu_backward,
            Self::Silu => engraft_kernels::silu_backward,
            Self::Sigmoid => engraft_kernels::sigmoid_backward,
            Self::Tanh => engraft_kernels::tanh_backward,
            Self::Relu => engraft_kernels::relu_backward,
        };
        let mut gx = vec![T::ZERO; gy.len()];
        run(x[0].data, gy, &mut gx);
        vec![Some(gx)]
    }
}

fn run<const D: usize>(
    kernel: Activation,
    x: Tensor<D>,
    composed: fn(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    fused(kernel, vec![x.into()]).unwrap_or_else(|x| composed(Returned::new(x).next()))
}

/// GELU(x) = x Phi(x), with Phi the distribution function of the standard normal (the exact form,
/// through erf). Hendrycks and Gimpel, arXiv 1606.08415.
///
/// The derivative is Phi(x) + x phi(x); its kernel reads x once instead of composing six
/// operations.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    run(Activation::Gelu, x, composed_gelu)
}

/// Through erf, whose derivative is exact: that of Burn's own GELU is the tanh form's on most
/// backends.
fn composed_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cumulative = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
    x * cumulative * 0.5
}

/// SiLU(x) = x s(x), s the logistic function. Elfwing et al., arXiv 1702.03118.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    run(Activation::Silu, x, activation::silu)
}

/// s(x) = 1 / (1 + exp(-x)).
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    run(Activation::Sigmoid, x, activation::sigmoid)
}

/// tanh(x).
pub fn tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    run(Activation::Tanh, x, activation::tanh)
}

/// max(x, 0).
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    run(Activation::Relu, x, activation::relu)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::super::testing::agree_beyond;
    use super::*;
    use crate::{Init, Key, bridge};

    #[test]
    fn values_and_gradients_equal_the_composition() {
        type Map = fn(Tensor<2>) -> Tensor<2>;
        let pairs: [(Map, Map); 5] = [
            (gelu, composed_gelu),
            (silu, activation::silu),
            (sigmoid, activation::sigmoid),
            (tanh, activation::tanh),
            (relu, activation::relu),
        ];
        for (fast, slow) in pairs {
            // NdArray's erf was found 1e-8 off in f64.
            agree_beyond(1e-7, &[&[7, 13]], 4, |x, is_fast| {
                let f = if is_fast { fast } else { slow };
                f(x[0].matrix() * 2.0)
            });
        }
    }

    #[test]
    fn a_transposed_input_is_read_in_its_order() {
        let device = Device::default();
        let x = Init::Normal { std: 1.0 }.tensor([3, 5], &Key::new(1), &device, DType::F32);
        let direct = bridge::values(&gelu(x.clone()).transpose());
        assert_eq!(bridge::values(&gelu(x.transpose())), direct);
    }
}
