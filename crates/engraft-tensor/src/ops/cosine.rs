//! Sums of plane waves: real parts of two-dimensional Fourier transforms.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{Tensor, TensorData};

/// Sums of plane waves as a backend operation.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Cube: cfg(any(feature = "wgpu", feature = "cuda")))]
pub trait CosineOps: Backend {
    /// y[i, j] = sum_(p, q) s[p, q] cos(2 pi (p i / rows + q j / cols)).
    fn cosine_sums(s: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::<Self>(s)
    }
}

/// The sums as C s C' - S s S', with the cosines and sines of both axes.
fn composed<B: Backend>(s: FloatTensor<B>) -> FloatTensor<B> {
    let [rows, cols] = s.shape().dims();
    let (device, dtype) = (s.device(), s.dtype());
    let table = |n: usize, wave: fn(f64) -> f64| {
        let turn = |at: usize| (at / n * (at % n) % n) as f64 / n as f64;
        let values: Vec<f64> = (0..n * n)
            .map(|at| wave(std::f64::consts::TAU * turn(at)))
            .collect();
        let data = TensorData::new(values, [n, n]).convert_dtype(dtype);
        B::float_from_data(data, &device)
    };
    let both = |wave| {
        let left = B::float_matmul(table(rows, wave), s.clone());
        B::float_matmul(left, table(cols, wave))
    };
    B::float_sub(both(f64::cos), both(f64::sin))
}

#[cfg(feature = "flex")]
impl CosineOps for burn::backend::Flex {
    fn cosine_sums(s: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape: [usize; 2] = s.shape().dims();
        super::flex::shaped(
            [s],
            shape,
            |[s], y| engraft_kernels::cosine_sums(s, shape, y),
            |[s], y| engraft_kernels::cosine_sums(s, shape, y),
        )
        .unwrap_or_else(|[s]| composed::<Self>(s))
    }
}

#[cfg(feature = "ndarray")]
#[expect(
    deprecated,
    reason = "deprecated upstream, kept as a second CPU opinion"
)]
impl CosineOps for burn::backend::NdArray {}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl CosineOps for burn::backend::Cube {}

impl<B: CosineOps, C: CheckpointStrategy> CosineOps for Autodiff<B, C> {
    fn cosine_sums(s: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct CosineSums;

        impl<B: CosineOps> Backward<B, 1> for CosineSums {
            type State = ();

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                // The map is symmetric.
                unary::<B, _>(ops.parents, ops.node, grads, B::cosine_sums);
            }
        }

        match CosineSums
            .prepare::<C>([s.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((), B::cosine_sums(s.into_primitive())),
            OpsKind::UnTracked(prep) => prep.finish(B::cosine_sums(s.into_primitive())),
        }
    }
}

/// y[i, j] = sum_(p, q) s[p, q] cos(2 pi (p i / rows + q j / cols)) for s and y of [rows, cols]:
/// the real part of the two-dimensional Fourier transform of s. Its own backward pass, because it
/// is symmetric. On flex a fast transform of any lengths; elsewhere four matrix products.
pub fn cosine_sums(s: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CosineOps>::cosine_sums(s.into_dispatch()))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{Init, Key, bridge};

    #[test]
    fn values_and_gradients_are_sums_of_cosines() {
        let device = Device::default().autodiff();
        let draw = |name: &str, shape| {
            Init::Normal { std: 1.0 }.tensor::<2>(
                shape,
                &Key::new(1).child(name),
                &device,
                DType::F64,
            )
        };
        for [rows, cols] in [[1, 1], [6, 5], [7, 12]] {
            let (s, g) = (
                draw("s", [rows, cols]).require_grad(),
                draw("g", [rows, cols]),
            );
            let wave = |n: usize, wave: fn(f64) -> f64| {
                let values = (0..n * n)
                    .map(|at| wave(std::f64::consts::TAU * (at / n * (at % n)) as f64 / n as f64))
                    .collect();
                bridge::tensor(values, [n, n], &device, DType::F64)
            };
            let both = |f| wave(rows, f).matmul(s.clone()).matmul(wave(cols, f));
            let run = |y: Tensor<2>| {
                let grads = (y.clone() * g.clone()).sum().backward();
                let gradient = s.grad(&grads).expect("s requires a gradient");
                [bridge::values(&y), bridge::values(&gradient)].concat()
            };
            let (fast, slow) = (
                run(cosine_sums(s.clone())),
                run(both(f64::cos) - both(f64::sin)),
            );
            for (a, b) in fast.iter().zip(&slow) {
                assert!((a - b).abs() < 1e-12, "{a} against {b}");
            }
        }
    }

    /// What backends without the kernel compute.
    #[cfg(feature = "flex")]
    #[test]
    fn the_composition_equals_the_kernel() {
        use burn::backend::Flex;
        use burn::backend::flex::FlexTensor;

        let values = Init::Normal { std: 1.0 }.values(7 * 12, &Key::new(2));
        let s = FlexTensor::from_data(TensorData::new(values, [7, 12]));
        let host = |tensor: FlexTensor| tensor.into_data().try_to_vec::<f64>().unwrap();
        let (fast, composed) = (
            host(Flex::cosine_sums(s.clone())),
            host(composed::<Flex>(s)),
        );
        for (a, b) in fast.iter().zip(&composed) {
            assert!((a - b).abs() < 1e-12, "{a} against {b}");
        }
    }
}
