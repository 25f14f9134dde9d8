//! Which layers play the same part in different blocks of a model.

use serde::{Deserialize, Serialize};

use crate::shape::LayerShape;

/// Which layers of one shape may share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// Those whose paths end in the same name: all `q_proj`.
    #[default]
    Name,
    /// All.
    Shape,
    /// Those whose paths end in the same of these; the last that fits counts.
    Suffixes(Vec<String>),
}

impl Grouping {
    /// The group of each layer, numbered in the order of their first layers.
    pub fn groups(&self, layers: &[LayerShape]) -> Vec<usize> {
        let part = |layer: &LayerShape| match self {
            Self::Name => layer.path.rsplit('.').next().unwrap_or("").to_owned(),
            Self::Shape => String::new(),
            Self::Suffixes(suffixes) => suffixes
                .iter()
                .rev()
                .find(|suffix| layer.path.ends_with(suffix.as_str()))
                .unwrap_or(&layer.path)
                .clone(),
        };
        numbered(
            layers
                .iter()
                .map(|layer| (part(layer), layer.d_in, layer.d_out)),
        )
    }
}

/// Each item's number: how many different ones came before its first occurrence.
pub fn numbered<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<usize> {
    let mut known: Vec<T> = Vec::new();
    items
        .into_iter()
        .map(|item| match known.iter().position(|seen| *seen == item) {
            Some(number) => number,
            None => {
                known.push(item);
                known.len() - 1
            }
        })
        .collect()
}

/// The layers of each group, in order.
pub fn members(groups: &[usize]) -> Vec<Vec<usize>> {
    let count = groups.iter().max().map_or(0, |last| last + 1);
    (0..count)
        .map(|group| {
            (0..groups.len())
                .filter(|layer| groups[*layer] == group)
                .collect()
        })
        .collect()
}

/// The part that a layer plays in its block: the last name of its path and the one before, unless
/// that is the block's number. BERT's `attention.output.dense` is `attention_output`, for its
/// feed-forward part ends in `output.dense` too.
pub fn part(path: &str) -> String {
    let names: Vec<&str> = path.split('.').collect();
    match names.as_slice() {
        [.., "attention", "output", "dense"] => "attention_output".to_owned(),
        [.., before, last] if before.parse::<usize>().is_err() => format!("{before}_{last}"),
        [.., last] => (*last).to_owned(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_without_its_block() {
        assert_eq!(
            part("encoder.layer.0.attention.output.dense"),
            "attention_output"
        );
        assert_eq!(part("layers.3.self_attn.q_proj"), "self_attn_q_proj");
        assert_eq!(part("layers.3.q"), "q");
        assert_eq!(part("head"), "head");
    }

    #[test]
    fn layers_are_grouped_by_part_and_shape() {
        let layers: Vec<LayerShape> = (0..6)
            .map(|i| {
                let (name, d_out) = [("q", 4), ("up", 8), ("k", 4)][i % 3];
                LayerShape::linear(format!("layers.{}.{name}", i / 3), 4, d_out, false)
            })
            .collect();
        assert_eq!(Grouping::Name.groups(&layers), [0, 1, 2, 0, 1, 2]);
        assert_eq!(Grouping::Shape.groups(&layers), [0, 1, 0, 0, 1, 0]);
        let suffixes = Grouping::Suffixes(vec!["q".to_owned(), "p".to_owned()]);
        assert_eq!(suffixes.groups(&layers), [0, 1, 2, 0, 1, 3]);
        assert_eq!(members(&[0, 1, 0]), [vec![0, 2], vec![1]]);
    }
}
