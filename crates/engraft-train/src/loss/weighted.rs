//! A loss and what it is the mean of.

use burn::tensor::Tensor;

use crate::error::{Error, Result};

/// The loss of a batch, or of a part of one.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean over what was predicted, `[1]`.
    pub mean: Tensor<1>,
    /// How many predictions that were: the weight of this part in the mean of all parts.
    pub weight: f64,
}

/// What a loss function may return: a mean over rows, a [`Loss`], or a result of either.
pub trait IntoLoss {
    /// The loss of `rows` rows.
    ///
    /// # Errors
    /// What kept it from being computed.
    fn into_loss(self, rows: usize) -> Result<Loss>;
}

impl IntoLoss for Loss {
    fn into_loss(self, _: usize) -> Result<Loss> {
        Ok(self)
    }
}

impl IntoLoss for Tensor<1> {
    fn into_loss(self, rows: usize) -> Result<Loss> {
        Ok(Loss {
            mean: self,
            weight: rows as f64,
        })
    }
}

impl<L: IntoLoss, E: Into<Error>> IntoLoss for Result<L, E> {
    fn into_loss(self, rows: usize) -> Result<Loss> {
        self.map_err(Into::into)?.into_loss(rows)
    }
}
