//! Layer norm and RMS norm with their own kernels.

use burn::tensor::{Tensor, module};
use engraft_kernels::{Moments, Real};

use super::fused::{Input, Kernel, Returned, fused};

/// Inputs x, gamma and beta.
#[derive(Debug, Clone)]
struct LayerNorm(f64);

impl Kernel for LayerNorm {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, _: &[bool]) -> bool {
        input < 2
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let [x, gamma, beta] = [0, 1, 2].map(|at| x[at].data);
        let Moments { mean, rstd } = engraft_kernels::layer_norm(x, gamma, beta, self.0, y);
        vec![mean, rstd]
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let moments = Moments {
            mean: saved[0].clone(),
            rstd: saved[1].clone(),
        };
        let mut gx = vec![T::ZERO; gy.len()];
        let (x, gamma) = (x[0].data, x[1].data);
        let (g_gamma, g_beta) =
            engraft_kernels::layer_norm_backward(x, gamma, &moments, gy, &mut gx);
        vec![Some(gx), Some(g_gamma), Some(g_beta)]
    }
}

/// y = (x - mean(x)) / sqrt(var(x) + epsilon) gamma + beta over the last axis of [..., width], with
/// the biased variance; gamma and beta: `[width]`. Ba, Kiros and Hinton, arXiv 1607.06450.
///
/// On flex one pass over x, and one backward for all three gradients. Kept: x and two numbers a row.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let inputs = vec![x.into(), gamma.into(), beta.into()];
    fused(LayerNorm(epsilon), inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        let x = inputs.next::<D>();
        module::layer_norm(x, inputs.next(), Some(inputs.next()), epsilon)
    })
}

/// Inputs x and gamma.
#[derive(Debug, Clone)]
struct RmsNorm(f64);

impl Kernel for RmsNorm {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        vec![engraft_kernels::rms_norm(x[0].data, x[1].data, self.0, y)]
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let mut gx = vec![T::ZERO; gy.len()];
        let (x, gamma) = (x[0].data, x[1].data);
        let g_gamma = engraft_kernels::rms_norm_backward(x, gamma, &saved[0], gy, &mut gx);
        vec![Some(gx), Some(g_gamma)]
    }
}

/// y = x / sqrt(mean(x^2) + epsilon) gamma over the last axis of [..., width]; gamma: `[width]`.
/// Zhang and Sennrich, arXiv 1910.07467.
///
/// On flex one pass over x, and one backward for both gradients. Kept: x and one number a row.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    fused(RmsNorm(epsilon), vec![x.into(), gamma.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed_rms(inputs.next(), inputs.next(), epsilon)
    })
}

fn composed_rms<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let mean = x.clone().powi_scalar(2).mean_dim(D - 1);
    x / (mean + epsilon).sqrt() * gamma.unsqueeze()
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    const EPSILON: f64 = 1e-5;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for shape in [[1, 1, 2], [2, 3, 5], [3, 7, 33]] {
            let width = &shape[2..];
            agree(&[&shape, width, width], 64 + shape[2], |x, fast| {
                let (input, gamma, beta) = (x[0].tensor::<3>(), x[1].vector(), x[2].vector());
                match fast {
                    true => layer_norm(input, gamma, beta, EPSILON),
                    false => module::layer_norm(input, gamma, Some(beta), EPSILON),
                }
            });
            agree(&[&shape, width], 64 + shape[2], |x, fast| {
                let f = if fast { rms_norm } else { composed_rms };
                f(x[0].tensor::<3>(), x[1].vector(), EPSILON)
            });
        }
    }
}
