//! Tensors that PEFT stores as one and Engraft as several, layer by layer.
//!
//! A piece has the key `whole#axis#index`; pieces of pieces have two such suffixes.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use crate::error::{Error, Result};
use crate::types::Tensors;

/// The key of a piece.
pub(crate) fn piece(whole: &str, axis: usize, index: usize) -> String {
    format!("{whole}#{axis}#{index:04}")
}

/// Puts the pieces of `whole` in its place: `count` equal ones along `axis`.
///
/// # Errors
/// A length that is not a multiple of their number. A missing tensor stays missing.
pub(crate) fn split(tensors: &mut Tensors, whole: &str, axis: usize, count: usize) -> Result<()> {
    let Some(length) = tensors
        .get(whole)
        .and_then(|data| data.shape().get(axis).copied())
    else {
        return Ok(());
    };
    if count == 0 || !length.is_multiple_of(count) {
        return Err(Error::Tensors(format!(
            "{whole} is {length} long, expected a multiple of the model's {count} attention layers"
        )));
    }
    cut(tensors, whole, axis, &vec![length / count; count]);
    Ok(())
}

/// Puts the pieces of `whole` in its place: of these lengths along `axis`, which add up. Pieces of no
/// length are left out.
pub(crate) fn cut(tensors: &mut Tensors, whole: &str, axis: usize, lengths: &[usize]) {
    let Some(data) = tensors.remove(whole) else {
        return;
    };
    let shape = data.shape().to_vec();
    let inner = shape[axis + 1..].iter().product::<usize>() * data.dtype().size();
    let mut start = 0;
    for (index, length) in lengths
        .iter()
        .enumerate()
        .filter(|(_, length)| **length > 0)
    {
        let slabs = data.as_bytes().chunks_exact((shape[axis] * inner).max(1));
        let bytes = slabs.flat_map(|slab| &slab[start * inner..(start + length) * inner]);
        let mut own = shape.clone();
        own[axis] = *length;
        let own = TensorData::from_bytes_vec(bytes.copied().collect(), own, data.dtype());
        tensors.insert(piece(whole, axis, index), own);
        start += length;
    }
}

/// Puts wholes in the places of all pieces.
pub(crate) fn join(tensors: &mut Tensors) {
    loop {
        let mut wholes: BTreeMap<(String, usize), Vec<TensorData>> = BTreeMap::new();
        let pieces: Vec<String> = tensors
            .keys()
            .filter(|key| key.contains('#'))
            .cloned()
            .collect();
        for key in pieces {
            let mut parts = key.rsplitn(3, '#').skip(1);
            let (Some(axis), Some(whole)) = (parts.next(), parts.next()) else {
                continue;
            };
            if let (Ok(axis), Some(data)) = (axis.parse(), tensors.remove(&key)) {
                wholes
                    .entry((whole.to_owned(), axis))
                    .or_default()
                    .push(data);
            }
        }
        if wholes.is_empty() {
            return;
        }
        for ((whole, axis), pieces) in wholes {
            tensors.insert(whole, joined(&pieces, axis));
        }
    }
}

/// Tensors behind one another along `axis`.
pub(crate) fn joined(pieces: &[TensorData], axis: usize) -> TensorData {
    let mut shape = pieces[0].shape().to_vec();
    let size = pieces[0].dtype().size();
    let slab = |data: &TensorData| data.shape().to_vec()[axis..].iter().product::<usize>() * size;
    let outer: usize = shape[..axis].iter().product();
    let mut bytes = Vec::new();
    for row in 0..outer {
        for data in pieces {
            let slab = slab(data);
            bytes.extend_from_slice(&data.as_bytes()[row * slab..(row + 1) * slab]);
        }
    }
    shape[axis] = pieces.iter().map(|data| data.shape().to_vec()[axis]).sum();
    TensorData::from_bytes_vec(bytes, shape, pieces[0].dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_pieces_make_the_whole_again() {
        let values: Vec<f32> = (0..24).map(|value| value as f32).collect();
        let whole = TensorData::new(values, [4, 6]);
        let mut tensors = Tensors::from([("t".to_owned(), whole.clone())]);
        split(&mut tensors, "t", 1, 3).unwrap();
        let second = &tensors[&piece("t", 1, 1)];
        assert_eq!(
            *second,
            TensorData::new(vec![2.0f32, 3.0, 8.0, 9.0, 14.0, 15.0, 20.0, 21.0], [4, 2])
        );
        for layer in 0..3 {
            cut(&mut tensors, &piece("t", 1, layer), 0, &[1, 3, 0]);
        }
        assert_eq!(tensors.len(), 6);
        join(&mut tensors);
        assert_eq!(tensors, Tensors::from([("t".to_owned(), whole)]));
        assert!(split(&mut tensors, "t", 0, 3).is_err());
    }
}
