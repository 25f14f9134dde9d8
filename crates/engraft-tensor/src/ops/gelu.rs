//! GELU with its own kernel.

use burn::tensor::{Tensor, activation};
use engraft_kernels::Real;

use super::fused::{Input, Kernel, Returned, fused};

#[derive(Debug, Clone)]
struct Gelu;

impl Kernel for Gelu {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        engraft_kernels::gelu(x[0].data, y);
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
        engraft_kernels::gelu_backward(x[0].data, gy, &mut gx);
        vec![Some(gx)]
    }
}

/// GELU(x) = x Phi(x), with Phi the distribution function of the standard normal (the exact form,
/// through erf). Hendrycks and Gimpel, arXiv 1606.08415.
///
/// The derivative is Phi(x) + x phi(x); its kernel reads x once instead of composing six
/// operations.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    fused(Gelu, vec![x.into()])
        .unwrap_or_else(|inputs| activation::gelu(Returned::new(inputs).next::<D>()))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{Init, Key, bridge};

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
            let device = Device::default().autodiff();
            let x = Init::Normal { std: 2.0 }
                .tensor([7, 13], &Key::new(1), &device, dtype)
                .require_grad();
            let weights = Init::Normal { std: 1.0 }.tensor([7, 13], &Key::new(2), &device, dtype);
            let run = |f: fn(Tensor<2>) -> Tensor<2>| {
                let y = f(x.clone());
                let grads = (y.clone() * weights.clone()).sum().backward();
                (
                    bridge::values(&y),
                    bridge::values(&x.grad(&grads).expect("x requires a gradient")),
                )
            };
            let (fast, slow) = (run(gelu), run(burn::tensor::activation::gelu));
            for (a, b) in fast
                .0
                .iter()
                .chain(&fast.1)
                .zip(slow.0.iter().chain(&slow.1))
            {
                assert!(
                    (a - b).abs() <= tolerance * (1.0 + b.abs()),
                    "{dtype:?}: {a} against {b}"
                );
            }
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
