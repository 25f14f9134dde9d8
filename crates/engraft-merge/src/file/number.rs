//! Numbers of a file as `f32` and back.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

/// The precisions of weights.
pub const WEIGHTS: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];

/// Bytes of a number of a weight.
///
/// # Panics
/// On a precision that is not one of [`WEIGHTS`].
pub(crate) fn size(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F64 => 8,
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::BF16 => 2,
        other => unreachable!("{other:?} is not a precision of weights"),
    }
}

/// Little-endian numbers as `f32`, into a buffer of as many numbers.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], to: &mut [f32]) {
    match dtype {
        Dtype::F32 => each::<4>(bytes, to, f32::from_le_bytes),
        Dtype::F64 => each::<8>(bytes, to, |b| f64::from_le_bytes(b) as f32),
        Dtype::BF16 => each::<2>(bytes, to, |b| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
        }),
        Dtype::F16 => {
            let mut part = [f16::ZERO; 1024];
            for (bytes, to) in bytes.chunks(2 * part.len()).zip(to.chunks_mut(part.len())) {
                let part = &mut part[..to.len()];
                for (half, b) in part.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*b);
                }
                part.convert_to_f32_slice(to);
            }
        }
        other => unreachable!("{other:?} is not a precision of weights"),
    }
}

/// `f32` as little-endian numbers, rounded to nearest (ties to even), into a buffer of as many
/// numbers.
pub(crate) fn narrow(dtype: Dtype, from: &[f32], bytes: &mut [u8]) {
    match dtype {
        Dtype::F32 => back::<4>(from, bytes, f32::to_le_bytes),
        Dtype::F64 => back::<8>(from, bytes, |x| f64::from(x).to_le_bytes()),
        Dtype::BF16 => back::<2>(from, bytes, |x| round_to_bf16(x).to_le_bytes()),
        Dtype::F16 => {
            let mut part = [f16::ZERO; 1024];
            for (from, bytes) in from
                .chunks(part.len())
                .zip(bytes.chunks_mut(2 * part.len()))
            {
                let part = &mut part[..from.len()];
                part.convert_from_f32_slice(from);
                for (half, b) in part.iter().zip(bytes.as_chunks_mut::<2>().0) {
                    *b = half.to_le_bytes();
                }
            }
        }
        other => unreachable!("{other:?} is not a precision of weights"),
    }
}

/// As `bf16::from_f32`, without a branch in the usual case, so that the loop is vectorised.
fn round_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    match x.is_nan() {
        true => bf16::NAN.to_bits(),
        false => rounded as u16,
    }
}

fn each<const N: usize>(bytes: &[u8], to: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (to, b) in to.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *to = value(*b);
    }
}

fn back<const N: usize>(from: &[f32], bytes: &mut [u8], value: impl Fn(f32) -> [u8; N]) {
    for (b, x) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(from) {
        *b = value(*x);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_to_the_nearest(x in proptest::num::f32::ANY, len in 1usize..3000) {
            for dtype in WEIGHTS {
                let values = vec![x; len];
                let mut bytes = vec![0; len * size(dtype)];
                narrow(dtype, &values, &mut bytes);
                let mut back = vec![0.0; len];
                widen(dtype, &bytes, &mut back);
                let expected = match dtype {
                    Dtype::F16 => f16::from_f32(x).to_f32(),
                    Dtype::BF16 => bf16::from_f32(x).to_f32(),
                    _ => x,
                };
                for y in back {
                    prop_assert!(y == expected || (y.is_nan() && x.is_nan()), "{dtype:?} {x} {y}");
                }
            }
        }
    }
}
