//! An embedding as a linear map of one-hot rows.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::ctx::Ctx;
use crate::linear::Linear;
use crate::lookup::Lookup;
use crate::transparent::transparent;

/// y = W[i, :] with a slot: adapters see the linear map W: [vocabulary, width] of one-hot rows, which are
/// never formed.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The linear map of one-hot rows. Its record keys are those of this layer.
    pub linear: Linear,
    /// The token of padding, whose row learns nothing.
    padding: Option<usize>,
}

transparent!(Embedding { linear, padding });

impl From<Linear> for Embedding {
    fn from(linear: Linear) -> Self {
        Self {
            linear,
            padding: None,
        }
    }
}

impl Embedding {
    /// A table W whose rows tokens look up.
    pub fn new(table: Tensor<2>) -> Self {
        Linear::from_tensors(table, None).into()
    }

    /// The same where the row of this token learns nothing.
    pub fn with_padding(self, padding: Option<usize>) -> Self {
        Self { padding, ..self }
    }

    /// The rows of W at the indices, [batch, tokens, width].
    pub fn forward(&self, indices: Tensor<2, Int>, ctx: &Ctx) -> Tensor<3> {
        let [batch, tokens] = indices.dims();
        let ctx = ctx.of_sequences([batch, tokens]);
        let rows = Lookup::new(indices.reshape([batch * tokens])).with_padding(self.padding);
        let y = self.linear.lookup(rows, &ctx);
        let width = y.dims()[1];
        y.reshape([batch, tokens, width])
    }

    /// The output layer that shares W: hidden states [batch, tokens, width] times W^T, [batch,
    /// tokens, vocabulary].
    pub fn tied(&self, hidden: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [batch, tokens, width] = hidden.dims();
        let y = self
            .linear
            .tied(hidden.reshape([batch * tokens, width]), ctx);
        let vocabulary = y.dims()[1];
        y.reshape([batch, tokens, vocabulary])
    }
}
