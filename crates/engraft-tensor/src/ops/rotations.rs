//! Rotations from the values of skew-symmetric blocks.

use burn::tensor::Tensor;
use engraft_kernels::{Real, Rotations};

use super::fused::{Input, Kernel, Returned, fused};

/// Largest block that is inverted by elimination; above it products of matrices are ahead.
const LARGEST: usize = 128;

impl Kernel for Rotations {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][0], self.size, self.size]
    }

    fn keeps(&self, _: usize, _: &[bool]) -> bool {
        self.last_power.is_some()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], wanted: &[bool]) -> Vec<Vec<T>> {
        self.apply(x[0].data, y);
        // The derivative of the inverse is made of the inverse, that of the series of Q.
        match (self.last_power, wanted[0]) {
            (None, true) => vec![y.to_vec()],
            _ => Vec::new(),
        }
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let mut gradient = vec![T::ZERO; x[0].shape.iter().product()];
        match saved {
            [r] => self.backward_exact(r, gy, &mut gradient),
            _ => self.backward_series(x[0].data, gy, &mut gradient),
        }
        vec![Some(gradient)]
    }
}

/// R, [n, b, b], of values [n, width]; the values again where there is no kernel.
#[expect(
    clippy::result_large_err,
    reason = "the other outcome is the tensor itself, not an error"
)]
pub(crate) fn rotations(shape: Rotations, values: Tensor<2>) -> Result<Tensor<3>, Tensor<2>> {
    if !(2..=LARGEST).contains(&shape.size) {
        return Err(values);
    }
    fused(shape, vec![values.into()]).map_err(|inputs| Returned::new(inputs).next())
}
