//! How much the weights of a layer matter, averaged over a turn.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// How the change of the loss without a weight is estimated, with t = w g.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Taylor {
    /// |t|.
    First,
    /// t^2.
    Second,
    /// |t - t^2 / 2|.
    #[default]
    Mixed,
}

/// What [`Losia`](crate::Losia) remembers while it trains.
#[derive(Module, Debug)]
pub struct LosiaState {
    /// Average importance, [d_in, d_out].
    pub importance: Param<Tensor<2>>,
    /// Average uncertainty, [d_in, d_out].
    pub uncertainty: Param<Tensor<2>>,
}

impl LosiaState {
    /// Moves the averages by the importance of weights with this gradient.
    pub(crate) fn measure(
        &mut self,
        taylor: Taylor,
        beta: f64,
        weight: Tensor<2>,
        gradient: Tensor<2>,
    ) {
        let t = weight.to_device(&gradient.device()) * gradient;
        let importance = match taylor {
            Taylor::First => t.abs(),
            Taylor::Second => t.clone() * t,
            Taylor::Mixed => (t.clone() - t.clone() * t * 0.5).abs(),
        };
        let average = |old: &Param<Tensor<2>>, new: Tensor<2>| {
            let old = old.val();
            let new = new.to_device(&old.device());
            old * beta + new * (1.0 - beta)
        };
        let mean = average(&self.importance, importance.clone());
        let distance = (importance.to_device(&mean.device()) - mean.clone()).abs();
        let spread = average(&self.uncertainty, distance);
        self.importance = self.importance.clone().map(|_| mean);
        self.uncertainty = self.uncertainty.clone().map(|_| spread);
    }
}
