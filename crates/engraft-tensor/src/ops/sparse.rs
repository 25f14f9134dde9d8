//! A few changed entries of a frozen weight.

use std::sync::Arc;

use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use engraft_kernels::{Mat, Real, SparseDelta};

use super::update::{Update, changed, composed, host_indices, updated};

/// U = s S.
#[derive(Debug, Clone)]
struct Sparse {
    shape: [usize; 2],
    positions: Arc<[i64]>,
    scaling: f64,
}

impl Sparse {
    fn kernel(&self) -> SparseDelta<'_> {
        SparseDelta {
            rows: self.shape[0],
            columns: self.shape[1],
            positions: &self.positions,
        }
    }
}

impl Update for Sparse {
    fn width_out(&self) -> usize {
        self.shape[1]
    }

    fn add<T: Real>(&self, x: &[T], v: &[T], y: &mut [T]) {
        self.kernel().add_product(x, v, self.scaling, y);
    }

    fn add_backward<T: Real>(
        &self,
        x: &[T],
        v: &[T],
        g: &[T],
        gx: Option<&mut [T]>,
        gv: Option<&mut [T]>,
    ) {
        if let Some(gx) = gx {
            self.kernel().add_product_transposed(g, v, self.scaling, gx);
        }
        if let Some(gv) = gv {
            self.kernel().backward_values(x, g, self.scaling, gv);
        }
    }

    fn add_matrix<T: Real>(&self, v: &[T], w: &mut [T]) {
        self.kernel().add_to(v, self.scaling, w);
    }

    fn add_matrix_backward<T: Real>(&self, gw: &[T], gv: &mut [T]) {
        self.kernel().gather(gw, self.scaling, gv);
    }

    fn layer<T: Real>(&self, x: Mat<'_, T>, w: Mat<'_, T>, v: &[T], y: &mut [T]) {
        self.kernel().apply(x.data, w.data, v, self.scaling, y);
    }

    fn layer_backward<T: Real>(
        &self,
        [x, w]: [Mat<'_, T>; 2],
        v: &[T],
        g: Mat<'_, T>,
        wanted: bool,
        gv: Option<&mut [T]>,
    ) -> Option<Vec<T>> {
        if let Some(gv) = gv {
            self.kernel()
                .backward_values(x.data, g.data, self.scaling, gv);
        }
        wanted.then(|| {
            let mut gx = vec![T::ZERO; g.rows * w.rows];
            self.kernel()
                .backward_input(g.data, w.data, v, self.scaling, &mut gx);
            gx
        })
    }
}

/// W + s S, where S: [d_in, d_out] holds `values` `[n]` at the places i d_out + j of `positions` `[n]`
/// and zero elsewhere; values at one place add up. One copy of W.
pub fn sparse_weight(
    weight: Tensor<2>,
    positions: Tensor<1, Int>,
    values: Tensor<1>,
    scaling: f64,
) -> Tensor<2> {
    let shape = weight.dims();
    match host_indices(&positions) {
        Some(indices) => {
            let sparse = Sparse {
                shape,
                positions: indices,
                scaling,
            };
            changed(sparse, weight, values, |values| {
                matrix(shape, positions, values, scaling)
            })
        }
        None => add_at(weight, positions, values * scaling),
    }
}

/// y = x (W + s S) + b for tokens x: [tokens, d_in], W: [d_in, d_out], b: `[d_out]` and the entries of
/// [`sparse_weight`].
///
/// On flex two dense products as in the frozen layer, with copies of W a panel at a time; the
/// gradient of the values is a sampled product, 2 tokens n flops, and no gradient of W is formed.
/// Only x is kept. Measured for 512 tokens, 768 x 768 and 12,288 entries (f32, one AVX-512 core): 0.1
/// ms forward and 0.6 ms backward beside products of 3 ms.
pub fn sparse_linear(
    x: Tensor<2>,
    (weight, bias): (Tensor<2>, Option<Tensor<1>>),
    positions: Tensor<1, Int>,
    values: Tensor<1>,
    scaling: f64,
) -> Tensor<2> {
    let shape = weight.dims();
    match host_indices(&positions) {
        Some(indices) => {
            let sparse = Sparse {
                shape,
                positions: indices,
                scaling,
            };
            updated(sparse, x, values, Some((weight, bias)), |values| {
                matrix(shape, positions, values, scaling)
            })
        }
        None => {
            let weight = add_at(weight, positions, values * scaling);
            composed(x, weight, None, bias)
        }
    }
}

fn add_at(weight: Tensor<2>, positions: Tensor<1, Int>, values: Tensor<1>) -> Tensor<2> {
    let [d_in, d_out] = weight.dims();
    let flat: Tensor<1> = weight.reshape([d_in * d_out]);
    flat.select_assign(0, positions, values, IndexingUpdateOp::Add)
        .reshape([d_in, d_out])
}

/// s S.
fn matrix(
    shape: [usize; 2],
    positions: Tensor<1, Int>,
    values: Tensor<1>,
    scaling: f64,
) -> Tensor<2> {
    let zeros = Tensor::zeros(shape, (&values.device(), values.dtype()));
    add_at(zeros, positions, values * scaling)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_changed_weight() {
        // The last one has so few entries that they are moved and nothing is copied.
        for ([d_in, d_out, n], tokens) in [
            ([1, 1, 1], 3),
            ([6, 5, 30], 37),
            ([7, 12, 20], 37),
            ([24, 40, 5], 3),
        ] {
            let positions = || -> Tensor<1, Int> {
                let places: Vec<i64> = (0..n as i64)
                    .map(|e| e * 41 % (d_in * d_out) as i64)
                    .collect();
                let device = Device::default().autodiff();
                Tensor::from_data(TensorData::new(places, [n]), &device)
            };
            assert_eq!(host_indices(&positions()).is_some(), cfg!(feature = "flex"));
            let shapes: [&[usize]; 4] = [&[tokens, d_in], &[n], &[d_in, d_out], &[d_out]];
            agree(&shapes, tokens + d_in, |inputs, fast| {
                let (x, values) = (inputs[0].matrix(), inputs[1].vector());
                let (weight, bias) = (inputs[2].matrix(), Some(inputs[3].vector()));
                match fast {
                    true => sparse_linear(x, (weight, bias), positions(), values, 0.5),
                    false => {
                        let update = matrix([d_in, d_out], positions(), values, 0.5);
                        composed(x, update, Some(weight), bias)
                    }
                }
            });
            agree(&[&[d_in, d_out], &[n]], 1, |inputs, fast| {
                let (weight, values) = (inputs[0].matrix(), inputs[1].vector());
                match fast {
                    true => sparse_weight(weight, positions(), values, 0.5),
                    false => add_at(weight, positions(), values * 0.5),
                }
            });
        }
    }
}
