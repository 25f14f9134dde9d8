//! What generation and scoring ask of a model.

use burn::tensor::Tensor;
use engraft_core::{Ctx, Result, Text};

use super::cache::Cache;
use crate::output::Output;

/// A decoder with scores for the next token.
pub trait CausalLm {
    /// Reads texts whole.
    fn forward(&self, text: &Text, ctx: &Ctx) -> Output;

    /// Reads the tokens that follow those in the cache and adds them to it: scores of the token
    /// after the last, [batch, vocabulary]. Padding takes no position here, so that a text padded on
    /// the left goes on as it would alone.
    ///
    /// Prompts and trained keys come in with the first tokens. Adapters see the whole text so far
    /// in their context, and hidden states of the tokens at its end.
    fn next(&self, text: &Text, cache: &mut Cache, ctx: &Ctx) -> Tensor<2>;

    /// Whether it has an output layer at all: [`next`](Self::next) is for those that do.
    fn has_output_layer(&self) -> bool;

    /// Whether the text has room, with so many tokens more.
    ///
    /// # Errors
    /// If there are more tokens than positions.
    fn fits(&self, text: &Text, more: usize, ctx: &Ctx) -> Result<()> {
        let _ = (text, more, ctx);
        Ok(())
    }
}
