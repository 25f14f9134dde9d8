//! Batches of encoded text.

use crate::text::example::{Example, IGNORED, Target};
use crate::tokens::Side;

/// What is to be learned from a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Nothing: requests.
    None,
    /// A class of each sequence, `[size]`.
    Classes(Vec<i64>),
    /// Numbers of each sequence, `[size, width]`, row-major.
    Values {
        /// The numbers.
        values: Vec<f32>,
        /// How many each sequence has.
        width: usize,
    },
    /// A label for each token, `[size, tokens]`, row-major; [`IGNORED`] where there is none. To learn
    /// the next token, the labels at 1.. are compared with the outputs at ..tokens - 1.
    Tokens(Vec<i64>),
    /// Of requests: the tokens that are expected to follow each; none where that is not known.
    Answers(Vec<Vec<u32>>),
}

/// Sequences padded to the longest of them. All fields are row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct TextBatch {
    /// Sequences.
    pub size: usize,
    /// Tokens of each, padding included.
    pub tokens: usize,
    /// Indices into the vocabulary, `[size, tokens]`.
    pub ids: Vec<i64>,
    /// 1 for tokens, 0 for padding, `[size, tokens]`.
    pub mask: Vec<i64>,
    /// The segment of each token, `[size, tokens]`; 0 for padding.
    pub segments: Vec<i64>,
    /// What is to be learned.
    pub targets: Targets,
    /// The line of each sequence's row.
    pub lines: Vec<u64>,
}

impl TextBatch {
    /// The examples, padded with `pad`.
    pub fn new(examples: &[Example], pad: u32, side: Side) -> Self {
        let tokens = examples
            .iter()
            .map(|example| example.ids.len())
            .max()
            .unwrap_or(0);
        let padded = |filler: i64, row: &dyn Fn(&Example) -> Vec<i64>| {
            let mut all = Vec::with_capacity(examples.len() * tokens);
            for example in examples {
                let row = row(example);
                let padding = std::iter::repeat_n(filler, tokens - row.len());
                match side {
                    Side::Left => all.extend(padding.chain(row)),
                    Side::Right => all.extend(row.into_iter().chain(padding)),
                }
            }
            all
        };
        let ids = |example: &Example| example.ids.iter().map(|id| i64::from(*id)).collect();
        let segments =
            |example: &Example| example.segments.iter().map(|id| i64::from(*id)).collect();
        let labels = |example: &Example| match &example.target {
            Target::Tokens(labels) => labels.clone(),
            _ => ids(example),
        };
        Self {
            size: examples.len(),
            tokens,
            ids: padded(i64::from(pad), &ids),
            mask: padded(0, &|example| vec![1; example.ids.len()]),
            segments: padded(0, &segments),
            targets: match examples
                .first()
                .map_or(&Target::None, |first| &first.target)
            {
                _ if examples.iter().any(|example| answer(example).is_some()) => {
                    let answers = examples
                        .iter()
                        .map(|example| answer(example).unwrap_or_default());
                    Targets::Answers(answers.map(<[u32]>::to_vec).collect())
                }
                Target::None | Target::Answer(_) => Targets::None,
                Target::Class(_) => Targets::Classes(examples.iter().map(class).collect()),
                Target::Values(first) => Targets::Values {
                    values: examples.iter().flat_map(values).copied().collect(),
                    width: first.len(),
                },
                Target::Tokens(_) | Target::Same => Targets::Tokens(padded(IGNORED, &labels)),
            },
            lines: examples.iter().map(|example| example.line).collect(),
        }
    }
}

fn class(example: &Example) -> i64 {
    match example.target {
        Target::Class(class) => class.into(),
        _ => IGNORED,
    }
}

fn answer(example: &Example) -> Option<&[u32]> {
    match &example.target {
        Target::Answer(ids) => Some(ids),
        _ => None,
    }
}

fn values(example: &Example) -> &[f32] {
    match &example.target {
        Target::Values(values) => values,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], target: Target) -> Example {
        let segments = (0..ids.len()).map(|place| u8::from(place > 1)).collect();
        Example {
            line: 7,
            ids: ids.to_vec(),
            segments,
            target,
            truncated: false,
        }
    }

    #[test]
    fn sequences_are_padded_to_the_longest() {
        let labels = Target::Tokens(vec![IGNORED, 4]);
        let examples = [example(&[3, 4], labels), example(&[5, 6, 7], Target::Same)];
        let right = TextBatch::new(&examples, 9, Side::Right);
        assert_eq!((right.size, right.tokens), (2, 3));
        assert_eq!(right.ids, [3, 4, 9, 5, 6, 7]);
        assert_eq!(right.mask, [1, 1, 0, 1, 1, 1]);
        assert_eq!(right.segments, [0, 0, 0, 0, 0, 1]);
        assert_eq!(
            right.targets,
            Targets::Tokens(vec![IGNORED, 4, IGNORED, 5, 6, 7])
        );
        let left = TextBatch::new(&examples, 9, Side::Left);
        assert_eq!(left.ids, [9, 3, 4, 5, 6, 7]);
        assert_eq!(left.mask, [0, 1, 1, 1, 1, 1]);
        let values = [example(&[1], Target::Values(vec![0.0, 1.0]))];
        let values = TextBatch::new(&values, 0, Side::Right);
        assert_eq!(
            values.targets,
            Targets::Values {
                values: vec![0.0, 1.0],
                width: 2
            }
        );
        assert_eq!(TextBatch::new(&[], 0, Side::Right).tokens, 0);
        let asked = [
            example(&[1], Target::None),
            example(&[2], Target::Answer(vec![3, 4])),
        ];
        assert_eq!(
            TextBatch::new(&asked, 0, Side::Left).targets,
            Targets::Answers(vec![Vec::new(), vec![3, 4]])
        );
    }
}
