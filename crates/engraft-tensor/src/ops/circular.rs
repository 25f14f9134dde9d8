//! Products with circulant blocks, through Fourier transforms.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{FloatDType, Shape, Slice, Tensor};

#[cfg(feature = "flex")]
use super::flex::shaped;

/// Products with circulant blocks as backend operations; x: [tokens, n b], w: [m, n, b].
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Cube: cfg(any(feature = "wgpu", feature = "cuda")))]
pub trait CircularOps: Backend {
    /// x C(w), [tokens, m b].
    fn circular(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        product::<Self>(x, w)
    }

    /// gy C(w)^T, [tokens, n b].
    fn circular_backward_input(gy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        product_transposed::<Self>(gy, w)
    }

    /// The gradient of w, [m, n, b], for kernels of size b.
    fn circular_backward_kernel(
        x: FloatTensor<Self>,
        gy: FloatTensor<Self>,
        size: usize,
    ) -> FloatTensor<Self> {
        diagonal_sums::<Self>(x, gy, size)
    }
}

fn product<B: Backend>(x: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(x, circulant::<B>(w))
}

fn product_transposed<B: Backend>(gy: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(gy, B::float_swap_dims(circulant::<B>(w), 0, 1))
}

fn ranges<const D: usize>(ends: [usize; D]) -> [Slice; D] {
    ends.map(|end| Slice::from(0..end as isize))
}

/// C(w), [n b, m b]: w[m, n, (r - s) mod b] in row n b + r and column m b + s.
///
/// Rows of b + 1 entries cut from a periodic sequence move by one against the period, which makes
/// the sums r + s; reversing the columns turns them into differences.
fn circulant<B: Backend>(w: FloatTensor<B>) -> FloatTensor<B> {
    let [m, n, b] = w.shape().dims();
    let periodic = B::float_repeat_dim(w, 2, b + 2);
    let [all, rows, _] = ranges([m, n, 0]);
    let from_second = Slice::from(1..(b * (b + 1) + 1) as isize);
    let shifted = B::float_slice(periodic, &[all, rows, from_second]);
    let lines = B::float_reshape(shifted, Shape::new([m, n, b, b + 1]));
    let sums = B::float_slice(lines, &ranges([m, n, b, b]));
    let blocks = B::float_permute(B::float_flip(sums, &[3]), &[1, 2, 0, 3]);
    B::float_reshape(blocks, Shape::new([n * b, m * b]))
}

/// The adjoint of [`circulant`] at x^T gy: its sums along the diagonals of every block.
fn diagonal_sums<B: Backend>(x: FloatTensor<B>, gy: FloatTensor<B>, b: usize) -> FloatTensor<B> {
    let (n, m) = (x.shape()[1] / b, gy.shape()[1] / b);
    let (device, dtype) = (x.device(), FloatDType::from(x.dtype()));
    let dense = B::float_matmul(B::float_swap_dims(x, 0, 1), gy);
    let blocks = B::float_reshape(dense, Shape::new([n, b, m, b]));
    let sums = B::float_flip(B::float_permute(blocks, &[2, 0, 1, 3]), &[3]);
    let zeros = |shape: &[usize]| B::float_zeros(Shape::from(shape.to_vec()), &device, dtype);
    let lines = B::float_cat(vec![sums, zeros(&[m, n, b, 1])], 3);
    let shifted = B::float_reshape(lines, Shape::new([m, n, b * (b + 1)]));
    let mut periodic = vec![zeros(&[m, n, 1]), shifted];
    if b > 1 {
        periodic.push(zeros(&[m, n, b - 1]));
    }
    let periods = B::float_reshape(B::float_cat(periodic, 2), Shape::new([m, n, b + 2, b]));
    B::float_reshape(B::float_sum_dim(periods, 2), Shape::new([m, n, b]))
}

#[cfg(feature = "flex")]
impl CircularOps for burn::backend::Flex {
    fn circular(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let (blocks, rows) = (shape(x.shape()[1], &w), x.shape()[0]);
        let out = [rows, blocks.width_out()];
        shaped(
            [x, w],
            out,
            |[x, w], y| blocks.apply(x, w, y),
            |[x, w], y| blocks.apply(x, w, y),
        )
        .unwrap_or_else(|[x, w]| product::<Self>(x, w))
    }

    fn circular_backward_input(gy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let [_, inputs, size] = w.shape().dims();
        let (blocks, rows) = (shape(inputs * size, &w), gy.shape()[0]);
        let out = [rows, blocks.width_in()];
        shaped(
            [gy, w],
            out,
            |[gy, w], gx| blocks.backward_input(gy, w, gx),
            |[gy, w], gx| blocks.backward_input(gy, w, gx),
        )
        .unwrap_or_else(|[gy, w]| product_transposed::<Self>(gy, w))
    }

    fn circular_backward_kernel(
        x: FloatTensor<Self>,
        gy: FloatTensor<Self>,
        size: usize,
    ) -> FloatTensor<Self> {
        let (inputs, outputs) = (x.shape()[1] / size, gy.shape()[1] / size);
        let blocks = engraft_kernels::CirculantBlocks {
            inputs,
            outputs,
            size,
        };
        let out = [outputs, inputs, size];
        shaped(
            [x, gy],
            out,
            |[x, gy], gw| gw.copy_from_slice(&blocks.backward_kernel(x, gy)),
            |[x, gy], gw| gw.copy_from_slice(&blocks.backward_kernel(x, gy)),
        )
        .unwrap_or_else(|[x, gy]| diagonal_sums::<Self>(x, gy, size))
    }
}

#[cfg(feature = "flex")]
fn shape(
    width_in: usize,
    w: &FloatTensor<burn::backend::Flex>,
) -> engraft_kernels::CirculantBlocks {
    let [outputs, _, size] = w.shape().dims();
    engraft_kernels::CirculantBlocks {
        inputs: width_in / size,
        outputs,
        size,
    }
}

#[cfg(feature = "ndarray")]
#[expect(
    deprecated,
    reason = "deprecated upstream, kept as a second CPU opinion"
)]
impl CircularOps for burn::backend::NdArray {}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl CircularOps for burn::backend::Cube {}

impl<B: CircularOps, C: CheckpointStrategy> CircularOps for Autodiff<B, C> {
    fn circular(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Circular;

        impl<B: CircularOps> Backward<B, 2> for Circular {
            type State = (B::FloatTensorPrimitive, B::FloatTensorPrimitive);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (x, w) = ops.state;
                let size = w.shape()[2];
                binary::<B, _, _>(
                    ops.parents,
                    ops.node,
                    grads,
                    |gy| B::circular_backward_input(gy, w),
                    |gy| B::circular_backward_kernel(x, gy, size),
                );
            }
        }

        let nodes = [x.node(), w.node()];
        let (x, w) = (x.into_primitive(), w.into_primitive());
        match Circular.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), w.clone()), B::circular(x, w)),
            OpsKind::UnTracked(prep) => prep.finish(B::circular(x, w)),
        }
    }
}

/// y = x C(w) for tokens x: [tokens, n b] and kernels w: [m, n, b], y: [tokens, m b].
///
/// C(w) has m n circulant blocks of side b: the one from input block n to output block m has
/// w[m, n, (r - s) mod b] in row r and column s, so that w is its first column. On flex the product
/// goes through Fourier transforms of length b, in O(tokens ((n + m) b log b + n m b)); elsewhere
/// C(w) is formed.
pub fn circular(x: Tensor<2>, w: Tensor<3>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CircularOps>::circular(
        x.into_dispatch(),
        w.into_dispatch(),
    ))
}

/// C(w) itself, [n b, m b]; see [`circular`].
pub fn circulant_matrix(w: Tensor<3>) -> Tensor<2> {
    let [m, n, b] = w.dims();
    let periodic = w.repeat_dim(2, b + 2).narrow(2, 1, b * (b + 1));
    let sums: Tensor<4> = periodic.reshape([m, n, b, b + 1]).narrow(3, 0, b);
    sums.flip([3]).permute([1, 2, 0, 3]).reshape([n * b, m * b])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{Init, Key, bridge};

    #[test]
    fn values_and_gradients_equal_the_dense_product() {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-13)] {
            for [m, n, b] in [[2, 3, 5], [1, 1, 1], [3, 1, 8]] {
                let device = Device::default().autodiff();
                let draw = |name: &str| {
                    Init::Normal { std: 1.0 }.values(37 * 24, &Key::new(1).child(name))
                };
                let cut = |name: &str, len: usize| draw(name)[..len].to_vec();
                let x = bridge::tensor(cut("x", 37 * n * b), [37, n * b], &device, dtype)
                    .require_grad();
                let w =
                    bridge::tensor(cut("w", m * n * b), [m, n, b], &device, dtype).require_grad();
                let g = bridge::tensor(cut("g", 37 * m * b), [37, m * b], &device, dtype);
                let run = |y: Tensor<2>| {
                    let grads = (y.clone() * g.clone()).sum().backward();
                    [
                        bridge::values(&y),
                        bridge::values(&x.grad(&grads).expect("x requires a gradient")),
                        bridge::values(&w.grad(&grads).expect("w requires a gradient")),
                    ]
                    .concat()
                };
                let fast = run(circular(x.clone(), w.clone()));
                let dense = run(x.clone().matmul(circulant_matrix(w.clone())));
                for (a, b) in fast.iter().zip(&dense) {
                    assert!(
                        (a - b).abs() <= tolerance * (1.0 + b.abs()) * 37.0,
                        "{dtype:?}: {a} against {b}"
                    );
                }
            }
        }
    }

    /// What backends without the kernel compute, as compositions of Burn's operations.
    #[cfg(feature = "flex")]
    #[test]
    fn the_compositions_equal_the_kernels() {
        use burn::backend::Flex;
        use burn::backend::flex::FlexTensor;
        use burn::tensor::TensorData;

        let draw = |name: &str, shape: &[usize]| {
            let values =
                Init::Normal { std: 1.0 }.values(shape.iter().product(), &Key::new(2).child(name));
            FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
        };
        for [m, n, b] in [[2, 3, 5], [1, 1, 1], [3, 1, 8]] {
            let (x, w, g) = (
                draw("x", &[7, n * b]),
                draw("w", &[m, n, b]),
                draw("g", &[7, m * b]),
            );
            let pairs = [
                (
                    Flex::circular(x.clone(), w.clone()),
                    product::<Flex>(x.clone(), w.clone()),
                ),
                (
                    Flex::circular_backward_input(g.clone(), w.clone()),
                    product_transposed::<Flex>(g.clone(), w),
                ),
                (
                    Flex::circular_backward_kernel(x.clone(), g.clone(), b),
                    diagonal_sums::<Flex>(x, g, b),
                ),
            ];
            for (fast, composed) in pairs {
                assert_eq!(fast.shape(), composed.shape());
                let values = |tensor: FlexTensor| {
                    tensor
                        .into_data()
                        .convert::<f64>()
                        .try_to_vec::<f64>()
                        .unwrap()
                };
                let distance = values(fast)
                    .iter()
                    .zip(values(composed))
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f64::max);
                assert!(distance < 1e-12, "{distance:e}");
            }
        }
    }
}
