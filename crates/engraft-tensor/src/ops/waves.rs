//! Products with a few plane waves: real parts of two-dimensional Fourier transforms.

use std::sync::Arc;

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use engraft_kernels::{Mat, PlaneWaves, Real, Tokens};

use super::fused::Input;
use super::update::{Seen, Update, changed, dense, host_indices, updated, zeros_like};

/// U = s sum_e c_e cos(..).
#[derive(Debug, Clone)]
struct Waves {
    shape: [usize; 2],
    places: Arc<[i64]>,
    scaling: f64,
}

impl Waves {
    fn kernel(&self) -> PlaneWaves<'_> {
        PlaneWaves {
            width_in: self.shape[0],
            width_out: self.shape[1],
            places: &self.places,
        }
    }
}

impl Update for Waves {
    fn width(&self, _: &[&[usize]]) -> usize {
        self.shape[1]
    }

    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>> {
        let tokens = Tokens::Rows(seen.x.data);
        self.kernel()
            .apply(tokens, seen.params[0].data, self.scaling, y);
        Vec::new()
    }

    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        trained: bool,
    ) -> Vec<Vec<T>> {
        let mut gv = trained.then(|| zeros_like(&seen.params[0]));
        let given = [seen.params[0].data, g];
        self.kernel().backward(
            Tokens::Rows(seen.x.data),
            given,
            self.scaling,
            gx,
            gv.as_deref_mut(),
        );
        gv.into_iter().collect()
    }

    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T> {
        let mut y = w.data.to_vec();
        self.kernel()
            .apply(Tokens::Identity, params[0].data, self.scaling, &mut y);
        y
    }

    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>> {
        let mut gv = zeros_like(&params[0]);
        let given = [&[][..], g.data];
        self.kernel()
            .backward(Tokens::Identity, given, self.scaling, None, Some(&mut gv));
        vec![gv]
    }
}

/// The waves of a spectrum: their shape [d_in, d_out], the place q d_out + p of each, `[n]`, and s.
#[derive(Debug, Clone)]
pub struct Spectrum {
    /// Widths of the layer.
    pub shape: [usize; 2],
    /// q d_out + p, `[n]`.
    pub places: Tensor<1, Int>,
    /// s.
    pub scaling: f64,
}

impl Spectrum {
    fn waves(&self) -> Option<Waves> {
        Some(Waves {
            shape: self.shape,
            places: host_indices(&self.places)?,
            scaling: self.scaling,
        })
    }

    /// U as C S C' - S S S', with the coefficients S and the cosines and sines of both axes.
    fn matrix(self, c: Tensor<1>) -> Tensor<2> {
        let [rows, cols] = self.shape;
        let (device, dtype) = (c.device(), c.dtype());
        let dense = Tensor::<1>::zeros([rows * cols], (&device, dtype))
            .select_assign(0, self.places, c * self.scaling, IndexingUpdateOp::Add)
            .reshape([rows, cols]);
        let table = |n: usize, wave: fn(f64) -> f64| -> Tensor<2> {
            let turn = |at: usize| (at / n * (at % n) % n) as f64 / n as f64;
            let values: Vec<f64> = (0..n * n)
                .map(|at| wave(std::f64::consts::TAU * turn(at)))
                .collect();
            Tensor::from_data(TensorData::new(values, [n, n]), (&device, dtype))
        };
        let both = |wave| {
            table(rows, wave)
                .matmul(dense.clone())
                .matmul(table(cols, wave))
        };
        both(f64::cos) - both(f64::sin)
    }
}

/// y = x (W + U(c)) + b for tokens x: [tokens, d_in], W: [d_in, d_out], b: `[d_out]`, c: `[n]` and
/// U[i, j] = s sum_e c_e cos(2 pi (q_e i / d_in + p_e j / d_out)). Gao et al., arXiv 2405.03003,
/// equations 2 to 4.
///
/// On flex U is not formed: a token is transformed, its n frequencies are moved and transformed
/// back, O(d_in log d_in + d_out log d_out + n) a token, and the result is added to the frozen
/// product in place; one backward pass transforms g once for both gradients. Measured on one AVX-512
/// core for 512 tokens, 768 x 768 and n = 1000 (f32): 0.4 ms forward and 0.6 ms backward beside
/// products of 3 ms, where U as a matrix takes 0.5 ms and a third product backward. With n above
/// about d_in d_out / 8 a product with the matrix takes fewer operations. Elsewhere U is formed.
pub fn waves_linear(
    x: Tensor<2>,
    (weight, bias): (Tensor<2>, Option<Tensor<1>>),
    c: Tensor<1>,
    spectrum: Spectrum,
) -> Tensor<2> {
    match spectrum.waves() {
        Some(waves) => {
            let base = Some((weight, bias));
            updated(waves, x, vec![c.into()], base, |x, params, base| {
                dense(x, spectrum.matrix(params.next()), base)
            })
        }
        None => dense(x, spectrum.matrix(c), Some((weight, bias))),
    }
}

/// W + U(c), see [`waves_linear`]: one copy of W and one pass over it, on flex by one transform of
/// each row.
pub fn waves_weight(weight: Tensor<2>, c: Tensor<1>, spectrum: Spectrum) -> Tensor<2> {
    match spectrum.waves() {
        Some(waves) => changed(waves, weight, vec![c.into()], |params| {
            spectrum.matrix(params.next())
        }),
        None => weight + spectrum.matrix(c),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_matrix() {
        for [d_in, d_out, n] in [[1, 1, 1], [6, 5, 30], [7, 12, 20]] {
            let spectrum = |device: &Device| {
                let places: Vec<i64> = (0..n as i64)
                    .map(|e| e * 41 % (d_in * d_out) as i64)
                    .collect();
                Spectrum {
                    shape: [d_in, d_out],
                    places: Tensor::from_data(TensorData::new(places, [n]), device),
                    scaling: 0.5,
                }
            };
            let here = spectrum(&Device::default().autodiff());
            assert_eq!(here.waves().is_some(), cfg!(feature = "flex"));
            let shapes: [&[usize]; 4] = [&[37, d_in], &[n], &[d_in, d_out], &[d_out]];
            agree(&shapes, 37 + n + d_in, |inputs, fast| {
                let (x, c) = (inputs[0].matrix(), inputs[1].vector());
                let (weight, bias) = (inputs[2].matrix(), Some(inputs[3].vector()));
                let spectrum = spectrum(&x.device());
                match fast {
                    true => waves_linear(x, (weight, bias), c, spectrum),
                    false => dense(x, spectrum.matrix(c), Some((weight, bias))),
                }
            });
            agree(&[&[d_in, d_out], &[n]], n + d_in * d_out, |inputs, fast| {
                let (weight, c) = (inputs[0].matrix(), inputs[1].vector());
                let spectrum = spectrum(&c.device());
                match fast {
                    true => waves_weight(weight, c, spectrum),
                    false => weight + spectrum.matrix(c),
                }
            });
        }
    }
}
