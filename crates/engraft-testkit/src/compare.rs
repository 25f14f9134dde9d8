//! Equality of tensors: to rounding, or bit by bit.

use burn::tensor::{DType, Tensor};
use engraft_tensor::bridge;

/// How many rounded operations in a row one comparison covers: a few layers, each a product, a
/// scale and a sum.
const OPERATIONS: f64 = 16.0;

/// The distance from 1 to the next number of this precision.
///
/// # Panics
/// For a type that is not f32 or f64.
pub fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::EPSILON),
        DType::F64 => f64::EPSILON,
        other => panic!("tolerances are stated for f32 and f64, found {other:?}"),
    }
}

/// The error of sums of `terms` rounded products of size `scale`: 16 eps sqrt(terms) scale. Errors
/// of opposite sign cancel, hence the square root.
pub fn tolerance(dtype: DType, terms: usize, scale: f64) -> f64 {
    OPERATIONS * epsilon(dtype) * (terms as f64).sqrt() * scale
}

/// max |x|, or infinity where an entry is not a number.
pub fn max_abs<const D: usize>(x: &Tensor<D>) -> f64 {
    largest(bridge::values(x).into_iter())
}

/// max |a - b|, or infinity where an entry is not a number.
///
/// # Panics
/// If the shapes differ.
pub fn max_difference<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> f64 {
    assert_eq!(a.dims(), b.dims(), "tensors of different shape");
    largest(
        bridge::values(a)
            .into_iter()
            .zip(bridge::values(b))
            .map(|(a, b)| a - b),
    )
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, |largest, value| {
        if value.is_nan() {
            f64::INFINITY
        } else {
            largest.max(value)
        }
    })
}

/// Whether `found` is `expected` to rounding, both sums of `terms` products of size 1 or of the
/// largest expected entry: if not, the numbers.
///
/// # Errors
/// A sentence with the largest difference and the tolerance.
pub fn close<const D: usize>(
    what: &str,
    found: &Tensor<D>,
    expected: &Tensor<D>,
    terms: usize,
) -> Result<(), String> {
    if found.dims() != expected.dims() {
        return Err(format!(
            "{what}: found shape {:?}, expected {:?}",
            found.dims(),
            expected.dims()
        ));
    }
    let difference = max_difference(found, expected);
    let allowed = tolerance(expected.dtype(), terms, max_abs(expected).max(1.0));
    if difference <= allowed {
        Ok(())
    } else {
        Err(format!(
            "{what}: differ by {difference:.3e}, tolerance {allowed:.3e}"
        ))
    }
}

/// Whether two tensors are equal bit by bit: if not, the numbers.
///
/// # Errors
/// A sentence with the largest difference.
pub fn identical<const D: usize>(
    what: &str,
    found: &Tensor<D>,
    expected: &Tensor<D>,
) -> Result<(), String> {
    let (left, right) = (found.to_data(), expected.to_data());
    if left.shape() == right.shape()
        && left.dtype() == right.dtype()
        && left.as_bytes() == right.as_bytes()
    {
        return Ok(());
    }
    if found.dims() != expected.dims() {
        return Err(format!(
            "{what}: found shape {:?}, expected {:?}",
            found.dims(),
            expected.dims()
        ));
    }
    Err(format!(
        "{what}: not bit-identical, differ by {:.3e}",
        max_difference(found, expected)
    ))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn vector(values: &[f64], dtype: DType) -> Tensor<1> {
        bridge::tensor(values.to_vec(), [values.len()], &Device::default(), dtype)
    }

    #[test]
    fn rounding_passes_and_more_does_not() {
        let one = vector(&[1.0, 2.0], DType::F32);
        let rounded = vector(&[1.0 + 2.0f64.powi(-23), 2.0], DType::F32);
        let wrong = vector(&[1.001, 2.0], DType::F32);
        assert!(close("x", &rounded, &one, 1).is_ok());
        assert!(identical("x", &rounded, &one).is_err());
        assert!(
            close("x", &wrong, &one, 1)
                .unwrap_err()
                .contains("tolerance")
        );
    }

    #[test]
    fn a_value_that_is_not_a_number_is_never_close() {
        assert!(
            close(
                "x",
                &vector(&[f64::NAN], DType::F64),
                &vector(&[0.0], DType::F64),
                1
            )
            .is_err()
        );
    }
}
