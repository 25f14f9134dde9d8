//! What goes into a slot.

use burn::tensor::{Device, Int, Tensor};

use crate::adapter::AnyAdapter;
use crate::base::FrozenBase;
use crate::ctx::Ctx;
use crate::lookup::Lookup;

/// The rows that a layer maps: given as they are, or as positions of ones in a vocabulary.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// x: [tokens, d_in].
    Tokens(Tensor<2>),
    /// One index into the rows of W per token: what an embedding looks up.
    Rows(Lookup),
    /// x: [tokens, d_out], for the output layer that shares the weight.
    Tied(Tensor<2>),
}

impl Input {
    pub(crate) fn tokens(&self) -> usize {
        match self {
            Self::Tokens(x) | Self::Tied(x) => x.dims()[0],
            Self::Rows(rows) => rows.tokens(),
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Tokens(x) | Self::Tied(x) => x.device(),
            Self::Rows(rows) => rows.device(),
        }
    }

    /// The tokens at these positions.
    pub(crate) fn select(&self, members: Tensor<1, Int>) -> Self {
        match self {
            Self::Tokens(x) => Self::Tokens(x.clone().select(0, members)),
            Self::Rows(rows) => Self::Rows(rows.select(members)),
            Self::Tied(x) => Self::Tied(x.clone().select(0, members)),
        }
    }

    /// Through the base alone.
    pub(crate) fn through(&self, base: &FrozenBase) -> Tensor<2> {
        match self {
            Self::Tokens(x) => base.forward(x.clone()),
            Self::Rows(rows) => base.lookup(rows),
            Self::Tied(x) => base.tied(x.clone()),
        }
    }

    /// Through an adapter on its base.
    pub(crate) fn adapted(&self, by: &AnyAdapter, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        match self {
            Self::Tokens(x) => by.forward(x.clone(), base, ctx),
            Self::Rows(rows) => by.lookup(rows, base, ctx),
            Self::Tied(x) => by.tied(x.clone(), base, ctx),
        }
    }
}
