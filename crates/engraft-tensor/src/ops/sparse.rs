//! A few changed entries of a frozen weight.

use std::sync::Arc;

use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use engraft_kernels::{Mat, Real, SparseDelta};

use super::fused::Input;
use super::linear::linear;
use super::update::{Seen, Update, changed, dense, host_indices, updated, zeros_like};

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

    fn value_gradients<T: Real>(&self, seen: Seen<'_, T>, g: &[T], trained: bool) -> Vec<Vec<T>> {
        let mut gv = trained.then(|| zeros_like(&seen.params[0]));
        if let Some(gv) = &mut gv {
            self.kernel()
                .backward_values(seen.x.data, g, self.scaling, gv);
        }
        gv.into_iter().collect()
    }
}

impl Update for Sparse {
    fn width(&self, _: &[&[usize]]) -> usize {
        self.shape[1]
    }

    fn takes_transposed_weight(&self) -> bool {
        false
    }

    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>> {
        self.kernel()
            .add_product(seen.x.data, seen.params[0].data, self.scaling, y);
        Vec::new()
    }

    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        trained: bool,
    ) -> Vec<Vec<T>> {
        if let Some(gx) = gx {
            self.kernel()
                .add_product_transposed(g, seen.params[0].data, self.scaling, gx);
        }
        self.value_gradients(seen, g, trained)
    }

    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T> {
        let mut y = w.data.to_vec();
        self.kernel().add_to(params[0].data, self.scaling, &mut y);
        y
    }

    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>> {
        let mut gv = zeros_like(&params[0]);
        self.kernel().gather(g.data, self.scaling, &mut gv);
        vec![gv]
    }

    fn layer<T: Real>(
        &self,
        seen: Seen<'_, T>,
        w: Input<'_, T>,
        _: Option<&[T]>,
        y: &mut [T],
    ) -> Vec<Vec<T>> {
        let values = seen.params[0].data;
        self.kernel()
            .apply(seen.x.data, w.data, values, self.scaling, y);
        Vec::new()
    }

    fn layer_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        w: Input<'_, T>,
        g: Mat<'_, T>,
        wanted: bool,
        trained: bool,
    ) -> (Option<Vec<T>>, Vec<Vec<T>>) {
        let gx = wanted.then(|| {
            let mut gx = vec![T::ZERO; g.rows * w.shape[0]];
            let values = seen.params[0].data;
            self.kernel()
                .backward_input(g.data, w.data, values, self.scaling, &mut gx);
            gx
        });
        (gx, self.value_gradients(seen, g.data, trained))
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
            changed(sparse, weight, vec![values.into()], |params| {
                matrix(shape, positions, params.next(), scaling)
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
            let base = Some((weight, bias));
            updated(sparse, x, vec![values.into()], base, |x, params, base| {
                dense(x, matrix(shape, positions, params.next(), scaling), base)
            })
        }
        None => {
            let weight = add_at(weight, positions, values * scaling);
            linear(x, weight, bias)
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
            let positions = |device: &Device| -> Tensor<1, Int> {
                let places: Vec<i64> = (0..n as i64)
                    .map(|e| e * 41 % (d_in * d_out) as i64)
                    .collect();
                Tensor::from_data(TensorData::new(places, [n]), device)
            };
            let here = positions(&Device::default().autodiff());
            assert_eq!(host_indices(&here).is_some(), cfg!(feature = "flex"));
            let shapes: [&[usize]; 4] = [&[tokens, d_in], &[n], &[d_in, d_out], &[d_out]];
            agree(&shapes, tokens + d_in, |inputs, fast| {
                let (x, values) = (inputs[0].matrix(), inputs[1].vector());
                let (weight, bias) = (inputs[2].matrix(), Some(inputs[3].vector()));
                let positions = positions(&x.device());
                match fast {
                    true => sparse_linear(x, (weight, bias), positions, values, 0.5),
                    false => {
                        let update = matrix([d_in, d_out], positions, values, 0.5);
                        dense(x, update, Some((weight, bias)))
                    }
                }
            });
            agree(&[&[d_in, d_out], &[n]], 1, |inputs, fast| {
                let (weight, values) = (inputs[0].matrix(), inputs[1].vector());
                let positions = positions(&weight.device());
                match fast {
                    true => sparse_weight(weight, positions, values, 0.5),
                    false => add_at(weight, positions, values * 0.5),
                }
            });
        }
    }
}
