//! Layer shapes for property tests.

use engraft_core::LayerShape;
use proptest::prelude::*;

/// A linear layer of any small shape, with or without bias.
pub fn layer(largest: usize) -> impl Strategy<Value = LayerShape> {
    (1..=largest, 1..=largest, any::<bool>())
        .prop_map(|(d_in, d_out, bias)| LayerShape::linear("layer", d_in, d_out, bias))
}

/// A linear layer whose sides are multiples of `block`, at most `blocks` of them, with or without bias.
pub fn blocked_layer(block: usize, blocks: usize) -> impl Strategy<Value = LayerShape> {
    (1..=blocks, 1..=blocks, any::<bool>()).prop_map(move |(d_in, d_out, bias)| {
        LayerShape::linear("layer", d_in * block, d_out * block, bias)
    })
}
