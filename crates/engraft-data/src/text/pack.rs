//! Texts joined and cut into blocks.

use crate::text::example::{Example, Target};

/// Joins the tokens of examples and cuts them into blocks of one length.
#[derive(Debug)]
pub(super) struct Packer {
    block: usize,
    target: Target,
    held: Option<Example>,
}

impl Packer {
    /// Blocks of `block` tokens with this target.
    pub fn new(block: usize, target: Target) -> Self {
        Self {
            block,
            target,
            held: None,
        }
    }

    /// The blocks that a further example completes.
    pub fn push(&mut self, example: Example) -> Vec<Example> {
        let mut held = match self.held.take() {
            None => Example {
                target: self.target.clone(),
                truncated: false,
                ..example
            },
            Some(mut held) => {
                held.ids.extend(example.ids);
                held.segments.resize(held.ids.len(), 0);
                held
            }
        };
        held.segments.fill(0);
        let mut blocks = Vec::new();
        while held.ids.len() > self.block {
            let rest = held.ids.split_off(self.block);
            held.segments.truncate(self.block);
            // What is left is of the example that came last.
            let next = Example {
                line: example.line,
                segments: vec![0; rest.len()],
                ids: rest,
                target: self.target.clone(),
                truncated: false,
            };
            blocks.push(std::mem::replace(&mut held, next));
        }
        self.held = Some(held);
        blocks
    }

    /// The last block. Of a single token nothing can be learned where the target is the next one.
    pub fn finish(self) -> Option<Example> {
        self.held
            .filter(|last| last.ids.len() > 1 || self.target != Target::Same)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_the_text_in_order(
            texts in prop::collection::vec(prop::collection::vec(0u32..9, 1..20), 1..20),
            block in 2usize..12,
        ) {
            let mut packer = Packer::new(block, Target::None);
            let mut blocks = Vec::new();
            for (ids, line) in texts.iter().zip(1..) {
                let (ids, segments) = (ids.clone(), vec![0; ids.len()]);
                blocks.extend(packer.push(Example { line, ids, segments, target: Target::None, truncated: false }));
            }
            prop_assert!(blocks.iter().all(|found| found.ids.len() == block));
            blocks.extend(packer.finish());
            let joined: Vec<u32> = blocks.iter().flat_map(|found| found.ids.clone()).collect();
            prop_assert_eq!(joined, texts.concat());
            prop_assert!(blocks.iter().all(|found| found.segments.len() == found.ids.len()));
            prop_assert!(blocks.is_sorted_by_key(|found| found.line));
        }
    }
}
