//! The mean squared error.

use burn::tensor::Tensor;
use engraft_kernels::{Real, sum_of_squares};

use super::fused::{Input, Kernel, Returned, fused};

/// The mean of (y - t)^2; inputs y and t. Keeps y - t.
#[derive(Debug, Clone)]
struct SquaredError;

impl Kernel for SquaredError {
    fn shape(&self, _: &[&[usize]]) -> Vec<usize> {
        vec![1]
    }

    fn keeps(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], wanted: &[bool]) -> Vec<Vec<T>> {
        let pairs = x[0].data.iter().zip(x[1].data);
        let apart: Vec<T> = pairs.map(|(&y, &t)| y - t).collect();
        y[0] = T::from_f64(sum_of_squares(&[&apart]) / apart.len() as f64);
        if wanted.contains(&true) {
            vec![apart]
        } else {
            Vec::new()
        }
    }

    fn backward<T: Real>(
        &self,
        _: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let apart = &saved[0];
        let scaled = |sign: f64| -> Vec<T> {
            let factor = T::from_f64(sign * 2.0 * gy[0].to_f64() / apart.len() as f64);
            apart.iter().map(|&apart| factor * apart).collect()
        };
        let signs = wanted.iter().zip([1.0, -1.0]);
        signs
            .map(|(wanted, sign)| wanted.then(|| scaled(sign)))
            .collect()
    }
}

/// The mean of (y - t)^2 over all entries, `[1]`, for y and t of one shape: PyTorch's `mse_loss`.
///
/// On flex one pass forward, one backward; y - t is kept.
///
/// # Panics
/// If the shapes differ.
pub fn mean_squared_error<const D: usize>(y: Tensor<D>, t: Tensor<D>) -> Tensor<1> {
    assert_eq!(y.dims(), t.dims(), "one shape");
    fused(SquaredError, vec![y.into(), t.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        let (y, t) = (inputs.next::<D>(), inputs.next::<D>());
        (y - t).powi_scalar(2).mean()
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for shape in [[1, 1], [7, 13], [65, 129]] {
            agree(&[&shape, &shape], 64, |x, fast| {
                let [y, t] = [x[0].matrix(), x[1].matrix()];
                if fast {
                    mean_squared_error(y, t)
                } else {
                    (y - t).powi_scalar(2).mean()
                }
            });
        }
    }
}
