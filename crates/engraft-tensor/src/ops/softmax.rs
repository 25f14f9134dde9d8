//! Softmax with its own kernel.

use burn::tensor::{Tensor, activation};
use engraft_kernels::Real;

use super::fused::{Input, Kernel, Returned, fused};

#[derive(Debug, Clone)]
struct Softmax;

impl Kernel for Softmax {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], wanted: &[bool]) -> Vec<Vec<T>> {
        engraft_kernels::softmax(x[0].data, width(x[0].shape), y);
        match wanted[0] {
            true => vec![y.to_vec()],
            false => Vec::new(),
        }
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let mut gx = vec![T::ZERO; gy.len()];
        engraft_kernels::softmax_backward(&saved[0], gy, width(x[0].shape), &mut gx);
        vec![Some(gx)]
    }
}

fn width(shape: &[usize]) -> usize {
    shape[shape.len() - 1]
}

/// y_i = exp(x_i) / sum_j exp(x_j) over the last axis, which is not empty.
///
/// On flex one pass over x, and one backward; kept is y.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    fused(Softmax, vec![x.into()])
        .unwrap_or_else(|x| activation::softmax(Returned::new(x).next::<D>(), D - 1))
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for shape in [[1, 1, 1], [2, 3, 5], [1, 7, 67]] {
            agree(&[&shape], shape[2], |x, fast| match fast {
                true => softmax(x[0].tensor::<3>()),
                false => activation::softmax(x[0].tensor::<3>(), 2),
            });
        }
    }
}
