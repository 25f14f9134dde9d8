//! Stochastic gradient descent.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::optimizer::{State, Step};

/// Stochastic gradient descent; the defaults are PyTorch's `torch.optim.SGD`.
///
/// ```text
/// g <- g + weight_decay p
/// v <- g at the first step, momentum v + g afterwards
/// p <- p - lr (g + momentum v if nesterov, else v)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sgd {
    /// Momentum.
    pub momentum: f64,
    /// Nesterov's look-ahead; needs momentum.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

impl Sgd {
    /// Values and state after a step of one parameter.
    pub(crate) fn update(&self, step: Step) -> (Tensor<1>, State) {
        let Self {
            momentum,
            nesterov,
            weight_decay,
        } = *self;
        let Step {
            values: p,
            gradient: g,
            lr,
            mut state,
        } = step;
        let g = if weight_decay == 0.0 {
            g
        } else {
            g + p.clone() * weight_decay
        };
        if momentum == 0.0 {
            return (p - g * lr, state);
        }
        let v = match state.moments.pop() {
            Some(v) => v * momentum + g.clone(),
            None => g.clone(),
        };
        state.moments.push(v.clone());
        let direction = if nesterov { g + v * momentum } else { v };
        (p - direction * lr, state)
    }
}
