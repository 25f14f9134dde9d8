//! Clipping of all gradients of a module by their common norm.

use burn::tensor::Tensor;

/// Added to the norm before dividing by it, as in PyTorch's `clip_grad_norm_`.
const NORM_EPSILON: f64 = 1e-6;

/// Scales all tensors by min(1, max / (norm + 1e-6)), where norm is the Euclidean norm of all of
/// them together, as PyTorch's `clip_grad_norm_` does. Returns the norm before clipping, `[1]`, in
/// the precision of the first tensor, or nothing if there is no tensor.
///
/// On flex, in `f32` and `f64`, one pass for the norm and, where the norm is above `max`, one in
/// place for the scale. Elsewhere a composition, from which nothing is read back.
pub fn clip_norm<'a>(
    tensors: impl IntoIterator<Item = &'a mut Tensor<1>>,
    max: f64,
) -> Option<Tensor<1>> {
    let mut tensors: Vec<&mut Tensor<1>> = tensors.into_iter().collect();
    #[cfg(feature = "flex")]
    if tensors.iter().all(|tensor| super::flex::is_host(tensor)) {
        return host::clip(&mut tensors, max);
    }
    composed(&mut tensors, max)
}

fn composed(tensors: &mut [&mut Tensor<1>], max: f64) -> Option<Tensor<1>> {
    let norm = tensors
        .iter()
        .map(|tensor| (*tensor).clone().powi_scalar(2).sum())
        .reduce(|sum, one| {
            let dtype = sum.dtype();
            sum + one.cast(dtype)
        })?
        .sqrt();
    let scale = ((norm.clone() + NORM_EPSILON).recip() * max).clamp_max(1.0);
    for tensor in tensors {
        let scale = scale.clone().cast(tensor.dtype());
        **tensor = (*tensor).clone() * scale;
    }
    Some(norm)
}

/// The same on numbers in memory.
#[cfg(feature = "flex")]
mod host {
    use burn::backend::flex::FlexTensor;
    use burn::tensor::{DType, Tensor};
    use engraft_kernels::{Real, scale, sum_of_squares};

    use super::NORM_EPSILON;
    use crate::ops::flex::{own, release};

    pub(super) fn clip(tensors: &mut [&mut Tensor<1>], max: f64) -> Option<Tensor<1>> {
        let first = tensors.first()?;
        let (device, dtype) = (first.device(), first.dtype());
        let mut held: Vec<FlexTensor> = tensors
            .iter_mut()
            .map(|tensor| {
                own(std::mem::replace(
                    *tensor,
                    Tensor::empty([0], (&device, dtype)),
                ))
            })
            .collect();
        let squares = squares(&held, DType::F32, FlexTensor::storage::<f32>)
            + squares(&held, DType::F64, FlexTensor::storage::<f64>);
        let norm = squares.sqrt();
        let factor = max / (norm + NORM_EPSILON);
        // A norm that is not a number must reach the gradients.
        if factor < 1.0 || factor.is_nan() {
            scaled(
                &mut held,
                factor,
                DType::F32,
                FlexTensor::storage_mut::<f32>,
            );
            scaled(
                &mut held,
                factor,
                DType::F64,
                FlexTensor::storage_mut::<f64>,
            );
        }
        for (tensor, held) in tensors.iter_mut().zip(held) {
            **tensor = release(held);
        }
        Some(Tensor::from_data([norm], (&device, dtype)))
    }

    fn squares<T: Real>(held: &[FlexTensor], dtype: DType, read: fn(&FlexTensor) -> &[T]) -> f64 {
        let own = held.iter().filter(|tensor| tensor.dtype() == dtype);
        sum_of_squares(&own.map(read).collect::<Vec<_>>())
    }

    fn scaled<T: Real>(
        held: &mut [FlexTensor],
        factor: f64,
        dtype: DType,
        write: fn(&mut FlexTensor) -> &mut [T],
    ) {
        let own = held.iter_mut().filter(|tensor| tensor.dtype() == dtype);
        scale(own.map(write).collect(), factor);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{Init, Key, bridge};

    #[test]
    fn it_equals_the_composition() {
        let device = Device::default();
        let draw = |dtype, len: usize| {
            Init::Normal { std: 1.0 }.tensor::<1>([len], &Key::new(len as u64), &device, dtype)
        };
        for dtypes in [[DType::F32; 2], [DType::F64; 2], [DType::F64, DType::F32]] {
            let tensors = [draw(dtypes[0], 5000), draw(dtypes[1], 77)];
            for max in [1.0, 1e4] {
                let (mut fast, mut slow) = (tensors.clone(), tensors.clone());
                let norm = clip_norm(&mut fast, max).unwrap();
                let expected = composed(&mut slow.iter_mut().collect::<Vec<_>>(), max).unwrap();
                assert_eq!(norm.dtype(), expected.dtype());
                let pairs = [
                    (&norm, &expected),
                    (&fast[0], &slow[0]),
                    (&fast[1], &slow[1]),
                ];
                for (fast, slow) in pairs {
                    let tolerance = if dtypes.contains(&DType::F32) {
                        2e-6
                    } else {
                        1e-14
                    };
                    for (a, b) in bridge::values(fast).iter().zip(bridge::values(slow)) {
                        assert!((a - b).abs() <= tolerance * b.abs(), "{a} against {b}");
                    }
                }
            }
        }
        assert!(clip_norm([], 1.0).is_none());
    }

    #[test]
    fn a_norm_that_is_no_number_shows_in_every_tensor() {
        let bad = Tensor::<1>::from_floats([f32::NAN, 1.0], &Device::default());
        let mut tensors = [bad, Tensor::ones([3], &Device::default())];
        clip_norm(&mut tensors, 1.0);
        assert!(
            tensors
                .iter()
                .all(|t| bridge::values(t).iter().all(|x| x.is_nan()))
        );
    }
}
