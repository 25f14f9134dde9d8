//! GELU with its own kernel.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// GELU and its derivative as backend operations.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Cube: cfg(any(feature = "wgpu", feature = "cuda")))]
pub trait GeluOps: Backend {
    /// x Phi(x).
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }

    /// gy (Phi(x) + x phi(x)).
    fn exact_gelu_backward(x: FloatTensor<Self>, gy: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_backward(x, gy)
    }
}

#[cfg(feature = "flex")]
impl GeluOps for burn::backend::Flex {
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let kernel = super::flex::Elementwise {
            f32: |[x], y| engraft_kernels::gelu(x, y),
            f64: |[x], y| engraft_kernels::gelu(x, y),
        };
        kernel
            .apply([x.clone()])
            .unwrap_or_else(|| <Self as burn::backend::ops::ActivationOps<Self>>::gelu(x))
    }

    fn exact_gelu_backward(x: FloatTensor<Self>, gy: FloatTensor<Self>) -> FloatTensor<Self> {
        let kernel = super::flex::Elementwise {
            f32: |[x, gy], gx| engraft_kernels::gelu_backward(x, gy, gx),
            f64: |[x, gy], gx| engraft_kernels::gelu_backward(x, gy, gx),
        };
        kernel.apply([x.clone(), gy.clone()]).unwrap_or_else(|| {
            <Self as burn::backend::ops::ActivationOps<Self>>::gelu_backward(x, gy)
        })
    }
}

#[cfg(feature = "ndarray")]
#[expect(
    deprecated,
    reason = "deprecated upstream, kept as a second CPU opinion"
)]
impl GeluOps for burn::backend::NdArray {}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl GeluOps for burn::backend::Cube {}

impl<B: GeluOps, C: CheckpointStrategy> GeluOps for Autodiff<B, C> {
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gelu;

        impl<B: GeluOps> Backward<B, 1> for Gelu {
            type State = B::FloatTensorPrimitive;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let x = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |gy| {
                    B::exact_gelu_backward(x, gy)
                });
            }
        }

        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(x.primitive().clone(), B::exact_gelu(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::exact_gelu(x.into_primitive())),
        }
    }
}

/// GELU(x) = x Phi(x), with Phi the distribution function of the standard normal (the exact form,
/// through erf). Hendrycks and Gimpel, arXiv 1606.08415.
///
/// The derivative is Phi(x) + x phi(x); its kernel reads x once instead of composing six
/// operations.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as GeluOps>::exact_gelu(x.into_dispatch()))
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
