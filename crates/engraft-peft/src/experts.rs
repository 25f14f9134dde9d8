//! Stacked experts: one tensor in PEFT, one layer per expert in Engraft.
//!
//! PEFT adapts a stack of E experts, each `in -> out`, with A of shape (E r, in), expert after
//! expert, and B of shape (out, r E), rank after rank.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::{LayerKind, LayerShape};

use crate::field::MODEL;

const DOWN: &str = "lora_A.weight";
const UP: &str = "lora_B.weight";

/// The path of the stack that an expert at `path` is in.
pub(crate) fn stack(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(stack, _)| stack)
}

/// The stacks among these layers, with the number of their experts.
pub(crate) fn stacks(layers: &[LayerShape]) -> BTreeMap<&str, usize> {
    let mut stacks = BTreeMap::new();
    for layer in layers {
        if layer.kind == LayerKind::Experts {
            *stacks.entry(stack(&layer.path)).or_default() += 1;
        }
    }
    stacks
}

/// Replaces the tensors of every stack by those of its experts. Shapes that do not divide stay as
/// they are, and are refused with the others.
pub(crate) fn split(tensors: &mut BTreeMap<String, TensorData>, layers: &[LayerShape]) {
    for (stack, experts) in stacks(layers) {
        for name in [DOWN, UP] {
            let key = format!("{MODEL}{stack}.{name}");
            let Some(data) = tensors
                .get(&key)
                .filter(|data| divides(data, name, experts))
            else {
                continue;
            };
            let parts: Vec<_> = (0..experts)
                .map(|expert| {
                    (
                        format!("{MODEL}{stack}.{expert}.{name}"),
                        part(data, name, expert, experts),
                    )
                })
                .collect();
            tensors.remove(&key);
            tensors.extend(parts);
        }
    }
}

/// The inverse of [`split`].
pub(crate) fn join(tensors: &mut BTreeMap<String, TensorData>, layers: &[LayerShape]) {
    for (stack, experts) in stacks(layers) {
        for name in [DOWN, UP] {
            let own: Option<Vec<TensorData>> = (0..experts)
                .map(|expert| tensors.remove(&format!("{MODEL}{stack}.{expert}.{name}")))
                .collect();
            if let Some(own) = own {
                tensors.insert(format!("{MODEL}{stack}.{name}"), joined(&own, name));
            }
        }
    }
}

fn divides(data: &TensorData, name: &str, experts: usize) -> bool {
    let shape = data.shape();
    shape.len() == 2 && shape[usize::from(name == UP)].is_multiple_of(experts)
}

/// Bytes of one number.
fn size(data: &TensorData) -> usize {
    data.dtype().size()
}

fn part(data: &TensorData, name: &str, expert: usize, experts: usize) -> TensorData {
    let (rows, columns) = (data.shape()[0], data.shape()[1]);
    if name == DOWN {
        let rank = rows / experts;
        let bytes = rank * columns * size(data);
        let own = data.as_bytes()[expert * bytes..(expert + 1) * bytes].to_vec();
        return TensorData::from_bytes_vec(own, vec![rank, columns], data.dtype());
    }
    let own = data
        .as_bytes()
        .chunks(size(data))
        .skip(expert)
        .step_by(experts)
        .flatten()
        .copied()
        .collect();
    TensorData::from_bytes_vec(own, vec![rows, columns / experts], data.dtype())
}

fn joined(own: &[TensorData], name: &str) -> TensorData {
    let first = &own[0];
    let (rows, columns) = (first.shape()[0], first.shape()[1]);
    if name == DOWN {
        let bytes = own.iter().flat_map(|data| data.as_bytes().to_vec());
        return TensorData::from_bytes_vec(
            bytes.collect(),
            vec![rows * own.len(), columns],
            first.dtype(),
        );
    }
    let size = size(first);
    let bytes = (0..rows * columns)
        .flat_map(|place| {
            own.iter()
                .flat_map(move |data| data.as_bytes()[place * size..(place + 1) * size].to_vec())
        })
        .collect();
    TensorData::from_bytes_vec(bytes, vec![rows, columns * own.len()], first.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_apart_in_rows_of_a_and_interleaved_in_columns_of_b() {
        let layers: Vec<LayerShape> = (0..2)
            .map(|expert| LayerShape {
                kind: LayerKind::Experts,
                ..LayerShape::linear(format!("moe.{expert}"), 3, 2, false)
            })
            .collect();
        let numbers = |count: usize| (0..count).map(|value| value as f32).collect::<Vec<_>>();
        let whole = BTreeMap::from([
            (
                format!("{MODEL}moe.{DOWN}"),
                TensorData::new(numbers(12), [4, 3]),
            ),
            (
                format!("{MODEL}moe.{UP}"),
                TensorData::new(numbers(8), [2, 4]),
            ),
        ]);
        let mut tensors = whole.clone();
        split(&mut tensors, &layers);
        assert_eq!(
            tensors[&format!("{MODEL}moe.1.{DOWN}")],
            TensorData::new(vec![6.0f32, 7.0, 8.0, 9.0, 10.0, 11.0], [2, 3])
        );
        assert_eq!(
            tensors[&format!("{MODEL}moe.1.{UP}")],
            TensorData::new(vec![1.0f32, 3.0, 5.0, 7.0], [2, 2])
        );
        join(&mut tensors, &layers);
        assert_eq!(tensors, whole);
    }
}
