//! The gradient of a batch from those of its parts.

use burn::tensor::Tensor;
use engraft_core::{Gradients, Mode, Trained};

use crate::error::Result;
use crate::loss::Loss;

/// The gradients of the mean loss of all parts, and that loss, without autodiff. What adapters add
/// to the loss is added once.
pub(crate) fn accumulated<M: Trained>(
    model: &mut M,
    parts: usize,
    seed: u64,
    step: u64,
    mut loss: impl FnMut(&M, usize, Mode) -> Result<Loss>,
) -> Result<(Gradients, Tensor<1>)> {
    let mode = |part: usize| Mode::Train {
        seed: seed.wrapping_add((part as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        step,
    };
    if parts == 1 {
        let mut loss = loss(model, 0, mode(0))?.mean;
        if let Some(penalty) = model.penalty(mode(0)) {
            loss = loss + penalty;
        }
        return Ok((Gradients::backward(&loss, model), loss.inner()));
    }
    let (mut gradients, mut sum, mut total) = (Gradients::default(), None, 0.0);
    for part in 0..parts {
        let Loss { mean, weight } = loss(model, part, mode(part))?;
        total += weight;
        let is_last = part + 1 == parts;
        if is_last && total == 0.0 {
            total = 1.0;
        }
        let mut weighted = mean * weight;
        if is_last && let Some(penalty) = model.penalty(mode(0)) {
            weighted = weighted + penalty * total;
        }
        gradients.add(Gradients::backward(&weighted, model));
        sum = Some(match sum {
            Some(sum) => sum + weighted.inner(),
            None => weighted.inner(),
        });
    }
    gradients.scale(1.0 / total);
    Ok((gradients, sum.expect("there is a part") / total))
}
