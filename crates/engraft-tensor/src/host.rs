//! Large matrices read on the host, in their own precision.

use burn::tensor::{DType, Tensor, TensorData};
use engraft_linalg::{Matrix, MatrixView, Operator};

#[cfg(feature = "flex")]
use burn::backend::flex::{Flex, FlexTensor};

use crate::bridge;

/// The values of a rank-2 tensor for `engraft-linalg`: on the flex backend where they lie, without
/// a copy, otherwise downloaded; in f32 or f64 as they are stored, half precision widened to f32.
#[derive(Debug)]
pub struct HostMatrix {
    entries: Entries,
    rows: usize,
    cols: usize,
}

#[derive(Debug)]
enum Entries {
    #[cfg(feature = "flex")]
    Flex(FlexTensor),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// A [`HostMatrix`] as slices.
enum View<'a> {
    F32(MatrixView<'a, f32>),
    F64(MatrixView<'a, f64>),
}

impl HostMatrix {
    /// The values of `tensor`.
    pub fn new(tensor: &Tensor<2>) -> Self {
        let [rows, cols] = tensor.dims();
        Self {
            entries: in_place(tensor).unwrap_or_else(|| downloaded(tensor)),
            rows,
            cols,
        }
    }

    /// The entries (i, i).
    pub fn diagonal(&self) -> Vec<f64> {
        let place = |i: usize| i * (self.cols + 1);
        let places = (0..self.rows.min(self.cols)).map(place);
        match self.view() {
            View::F32(view) => places.map(|i| view.as_slice()[i].into()).collect(),
            View::F64(view) => places.map(|i| view.as_slice()[i]).collect(),
        }
    }

    fn view(&self) -> View<'_> {
        match &self.entries {
            #[cfg(feature = "flex")]
            Entries::Flex(tensor) => match tensor.as_slice::<f32>() {
                Some(values) => View::F32(self.shaped(values)),
                None => View::F64(self.shaped(tensor.as_slice().expect("one of the two"))),
            },
            Entries::F32(values) => View::F32(self.shaped(values)),
            Entries::F64(values) => View::F64(self.shaped(values)),
        }
    }

    fn shaped<'a, T: engraft_linalg::Real>(&self, values: &'a [T]) -> MatrixView<'a, T> {
        MatrixView::new(self.rows, self.cols, values)
            .expect("a tensor holds as many values as its shape says")
    }
}

impl Operator for HostMatrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn times(&self, x: &Matrix) -> Matrix {
        match self.view() {
            View::F32(view) => Operator::times(&view, x),
            View::F64(view) => Operator::times(&view, x),
        }
    }

    fn transpose_times(&self, x: &Matrix) -> Matrix {
        match self.view() {
            View::F32(view) => Operator::transpose_times(&view, x),
            View::F64(view) => Operator::transpose_times(&view, x),
        }
    }

    fn epsilon(&self) -> f64 {
        match self.view() {
            View::F32(view) => view.epsilon(),
            View::F64(view) => view.epsilon(),
        }
    }

    fn to_matrix(&self) -> Matrix {
        match self.view() {
            View::F32(view) => view.to_matrix(),
            View::F64(view) => view.to_matrix(),
        }
    }
}

/// W + `factor` A B for W [m, n], A [m, r] and B [r, n], outside of any gradient: on the flex backend
/// one pass over W and one over the result, without the product as a matrix of its own.
///
/// # Panics
/// If the shapes do not fit.
pub fn plus_product(w: &Tensor<2>, factor: f64, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    let composed = || {
        let product = a.clone().detach().matmul(b.clone().detach());
        (w.clone().detach() + product * factor).detach()
    };
    let (dtype, device) = (w.dtype(), w.device());
    let Some(entries) = in_place(w) else {
        return composed();
    };
    let [rows, cols] = w.dims();
    let (w, a, b) = (
        HostMatrix {
            entries,
            rows,
            cols,
        },
        HostMatrix::new(a),
        HostMatrix::new(b),
    );
    let fits = "factors of the matrix's shape";
    let data = match (w.view(), a.view(), b.view()) {
        (View::F32(w), View::F32(a), View::F32(b)) => {
            TensorData::new(w.plus_product(factor, &a, &b).expect(fits), [rows, cols])
        }
        (View::F64(w), View::F64(a), View::F64(b)) => {
            TensorData::new(w.plus_product(factor, &a, &b).expect(fits), [rows, cols])
        }
        _ => return composed(),
    };
    Tensor::from_data(data, (&device, dtype))
}

/// The values of a tensor of the flex backend, row-major.
#[cfg(feature = "flex")]
fn in_place(tensor: &Tensor<2>) -> Option<Entries> {
    if !matches!(tensor.dtype(), DType::F32 | DType::F64) {
        return None;
    }
    let tensor: FlexTensor = tensor.clone().inner().try_into_primitive::<Flex>().ok()?;
    Some(Entries::Flex(if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }))
}

#[cfg(not(feature = "flex"))]
fn in_place(_: &Tensor<2>) -> Option<Entries> {
    None
}

fn downloaded(tensor: &Tensor<2>) -> Entries {
    match tensor.dtype() {
        DType::F64 => Entries::F64(bridge::values(tensor)),
        _ => Entries::F32(
            tensor
                .to_data()
                .convert::<f32>()
                .try_into_vec()
                .expect("converted to f32"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{Init, Key};

    fn draw(shape: [usize; 2], role: &str, device: &Device, dtype: DType) -> Tensor<2> {
        Init::Normal { std: 1.0 }.tensor(shape, &Key::new(1).child(role), device, dtype)
    }

    #[test]
    fn products_are_those_of_the_tensor() {
        for device in [Device::default(), Device::default().autodiff()] {
            for (dtype, bound) in [(DType::F32, 1e-4), (DType::F64, 1e-12)] {
                let wide = draw([40, 30], "w", &device, dtype);
                // As it lies, a part of a larger one, and transposed.
                for w in [
                    wide.clone(),
                    wide.clone().slice([3..20, 2..30]),
                    wide.transpose(),
                ] {
                    let (host, dense) = (HostMatrix::new(&w), bridge::to_matrix(&w));
                    assert_eq!(host.to_matrix(), dense);
                    assert!(
                        host.diagonal()
                            .iter()
                            .enumerate()
                            .all(|(i, x)| *x == dense.get(i, i))
                    );
                    let [m, n] = w.dims();
                    let (x, y) = (
                        draw([n, 3], "x", &device, dtype),
                        draw([m, 3], "y", &device, dtype),
                    );
                    let (x, y) = (bridge::to_matrix(&x), bridge::to_matrix(&y));
                    let right = host.times(&x).max_abs_diff(&dense.matmul(&x).unwrap());
                    let left = host.transpose_times(&y);
                    let left = left.max_abs_diff(&dense.transpose_matmul(&y).unwrap());
                    assert!(right.unwrap() < bound && left.unwrap() < bound);
                }
            }
        }
    }

    #[test]
    fn the_sum_with_a_product_is_that_of_tensor_operations() {
        for device in [Device::default(), Device::default().autodiff()] {
            for (dtype, bound) in [(DType::F32, 1e-5), (DType::F64, 1e-13)] {
                let w = draw([21, 13], "w", &device, dtype);
                let (a, b) = (
                    draw([21, 2], "a", &device, dtype),
                    draw([2, 13], "b", &device, dtype),
                );
                let found = plus_product(&w, -1.5, &a, &b);
                assert_eq!((found.dtype(), found.device()), (dtype, w.device()));
                let expected = w - a.matmul(b) * 1.5;
                let difference = bridge::to_matrix(&(found - expected)).max_abs();
                assert!(difference < bound, "{difference:e}");
            }
        }
    }
}
