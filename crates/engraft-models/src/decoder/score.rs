//! How likely a model finds a text.

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use engraft_core::{Ctx, Error, Result, Text};
use engraft_tensor::bridge;

use super::causal_lm::CausalLm;
use super::generate::needs_output_layer;
use crate::output::Logits;

/// How likely a continuation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// log p(continuation | context), natural logarithm.
    pub log_likelihood: f64,
    /// Tokens of the continuation.
    pub tokens: usize,
    /// Whether each of them is the likeliest at its place.
    pub is_greedy: bool,
}

/// The scores of continuations of contexts, as pairs of ids, in one batch.
///
/// # Errors
/// A model without an output layer, an empty context (whose first token has no probability), more
/// tokens than positions.
pub fn score<M: CausalLm + ?Sized>(
    model: &M,
    pairs: &[(Vec<i64>, Vec<i64>)],
    device: &Device,
    ctx: &Ctx,
) -> Result<Vec<Score>> {
    needs_output_layer(model)?;
    if let Some(at) = pairs.iter().position(|(context, _)| context.is_empty()) {
        return Err(Error::Unsupported(format!(
            "context {at} is empty, expected at least one token before what is scored"
        )));
    }
    let longest = pairs
        .iter()
        .map(|(context, more)| context.len() + more.len());
    let Some(tokens) = longest.max() else {
        return Ok(Vec::new());
    };
    let batch = pairs.len();
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (context, more) in pairs {
        let len = context.len() + more.len();
        ids.extend(context.iter().chain(more).copied());
        ids.extend(std::iter::repeat_n(0, tokens - len));
        mask.extend((0..tokens).map(|at| i64::from(at < len)));
    }
    // What follows each token.
    let next = ids.iter().skip(1).copied().chain([0]).collect::<Vec<i64>>();
    let int =
        |values| Tensor::<2, Int>::from_data(TensorData::new(values, [batch, tokens]), device);
    let text = Text::new(int(ids)).with_mask(int(mask));
    model.fits(&text, 0, ctx)?;
    let Some(Logits::Tokens(logits)) = model.forward(&text, ctx).logits else {
        unreachable!("an output layer scores tokens")
    };
    let log_probabilities = activation::log_softmax(logits, 2);
    let greedy = log_probabilities.clone().argmax(2);
    let greedy = greedy.reshape([batch, tokens]).equal(int(next.clone()));
    let chosen = log_probabilities.gather(2, int(next).unsqueeze_dim::<3>(2));
    let greedy = bridge::values(&greedy.float());
    let chosen = bridge::values(&chosen);
    let scores = pairs.iter().enumerate().map(|(row, (context, more))| {
        let first = row * tokens + context.len() - 1;
        let places = first..first + more.len();
        Score {
            log_likelihood: chosen[places.clone()].iter().sum(),
            tokens: more.len(),
            is_greedy: greedy[places].iter().all(|greedy| *greedy == 1.0),
        }
    });
    Ok(scores.collect())
}

/// exp(-mean log p) over all scored tokens.
pub fn perplexity(scores: &[Score]) -> f64 {
    let total: f64 = scores.iter().map(|score| score.log_likelihood).sum();
    let tokens: usize = scores.iter().map(|score| score.tokens).sum();
    (-total / tokens as f64).exp()
}
