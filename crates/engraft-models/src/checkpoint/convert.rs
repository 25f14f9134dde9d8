//! Stored numbers to the model's precision and layout.

use burn::tensor::{DType, Element, TensorData, bf16, f16};

use super::files::{Files, Place};
use crate::parts::Wanted;

/// Bytes of a file that are looked at at a time: what is held beside the model.
const CHUNK: usize = 4 << 20;

/// Rows and columns of a tile of a transposition.
const TILE: usize = 32;

/// The values of a stored tensor as the model wants them.
///
/// # Errors
/// A number that is not finite, an unreadable file, or a precision that is no floating point.
pub(super) fn values(
    files: &Files,
    place: &Place,
    wanted: Wanted,
    dtype: DType,
) -> Result<TensorData, String> {
    match dtype {
        DType::F64 => fill::<f64>(files, place, wanted),
        DType::F32 => fill::<f32>(files, place, wanted),
        DType::F16 => fill::<f16>(files, place, wanted),
        DType::BF16 => fill::<bf16>(files, place, wanted),
        other => Err(format!("cannot be computed with in {other:?}")),
    }
}

fn fill<T: Element>(files: &Files, place: &Place, wanted: Wanted) -> Result<TensorData, String> {
    let count: usize = wanted.shape.iter().product();
    let rows = place.shape.first().copied().unwrap_or(1).max(1);
    let columns = count / rows;
    let size = place.dtype.size();
    let at_once = (CHUNK / (columns * size).max(1)).max(1);
    let mut chunk = Vec::new();
    // Rows in order are decoded where they stay, columns by way of a chunk.
    let mut values = match wanted.transposed {
        false => Vec::with_capacity(count),
        true => vec![T::from_elem(0.0f32); count],
    };
    for first in (0..rows).step_by(at_once) {
        let taken = at_once.min(rows - first);
        let bytes = files
            .bytes(place, first * columns * size, taken * columns * size)
            .map_err(|error| error.to_string())?;
        let into = match wanted.transposed {
            false => &mut values,
            true => {
                chunk.clear();
                &mut chunk
            }
        };
        let start = into.len();
        decode::<T>(&bytes, place.dtype, into)?;
        let new = &into[start..];
        if let Some(at) = not_finite(new) {
            let index = unravel(first * columns + at, &place.shape);
            return Err(format!("holds {} at {index:?}", new[at].elem::<f64>()));
        }
        if wanted.transposed {
            transpose(&chunk, columns, &mut values, rows, first);
        }
    }
    Ok(TensorData::new(values, wanted.shape))
}

/// Where the first number is that is not finite. All are looked at, without branches, before the place
/// is searched for.
fn not_finite<T: Element>(values: &[T]) -> Option<usize> {
    let is_not = |value: &T| !value.elem::<f64>().is_finite();
    let any = values.iter().fold(false, |any, value| any | is_not(value));
    any.then(|| values.iter().position(is_not)).flatten()
}

/// Appends the numbers of little-endian bytes.
fn decode<T: Element>(bytes: &[u8], dtype: DType, values: &mut Vec<T>) -> Result<(), String> {
    macro_rules! of {
        ($type:ty) => {
            values.extend(bytes.chunks_exact(size_of::<$type>()).map(|bytes| {
                let bytes = bytes.try_into().expect("a chunk is of this size");
                T::from_elem(<$type>::from_le_bytes(bytes))
            }))
        };
    }
    match dtype {
        DType::F64 => of!(f64),
        DType::F32 => of!(f32),
        DType::F16 => of!(f16),
        DType::BF16 => of!(bf16),
        other => {
            return Err(format!(
                "found precision {other:?}, expected floating point"
            ));
        }
    }
    Ok(())
}

/// Writes the rows of `chunk`, which are those from `first` of a matrix [rows, columns], as columns of
/// its transpose [columns, rows].
fn transpose<T: Copy>(chunk: &[T], columns: usize, values: &mut [T], rows: usize, first: usize) {
    let taken = chunk.len() / columns.max(1);
    for top in (0..taken).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for column in left..columns.min(left + TILE) {
                let line = &mut values[column * rows + first..];
                for row in top..taken.min(top + TILE) {
                    line[row] = chunk[row * columns + column];
                }
            }
        }
    }
}

/// Where the entry at this position of a row-major tensor is.
fn unravel(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|size| {
            let at = position % size;
            position /= size;
            at
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_a_transposition_meet() {
        let (rows, columns) = (70, 45);
        let matrix: Vec<usize> = (0..rows * columns).collect();
        let mut transposed = vec![0; rows * columns];
        for first in [0, 33, 66] {
            let last = rows.min(first + 33);
            let chunk = &matrix[first * columns..last * columns];
            transpose(chunk, columns, &mut transposed, rows, first);
        }
        for (at, value) in transposed.iter().enumerate() {
            assert_eq!(*value, (at % rows) * columns + at / rows);
        }
    }

    #[test]
    fn positions_are_named_by_index() {
        assert_eq!(unravel(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(unravel(0, &[]), Vec::<usize>::new());
    }
}
