//! Networks that compute a table of tokens from another: reparameterisations of prompts.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{Activation, Ctx, InitContext, dropout};
use engraft_tensor::{Init, ops};

/// y = x W + b.
#[derive(Module, Debug)]
pub struct Dense {
    /// W, [d_in, d_out].
    pub weight: Param<Tensor<2>>,
    /// b, `[d_out]`.
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    /// PyTorch's start: U(-1/sqrt(fan), 1/sqrt(fan)) for both.
    pub(crate) fn init(
        d_in: usize,
        d_out: usize,
        fan: usize,
        role: &str,
        ctx: &InitContext,
    ) -> Self {
        let init = Init::KaimingUniform { fan_in: fan };
        Self {
            weight: Param::from_tensor(ctx.tensor(init, [d_in, d_out], &format!("{role}.weight"))),
            bias: Param::from_tensor(ctx.tensor(init, [d_out], &format!("{role}.bias"))),
        }
    }

    /// All zeros.
    pub(crate) fn zeros(d_in: usize, d_out: usize, ctx: &InitContext) -> Self {
        Self {
            weight: Param::from_tensor(ctx.tensor(Init::ZEROS, [d_in, d_out], "")),
            bias: Param::from_tensor(ctx.tensor(Init::ZEROS, [d_out], "")),
        }
    }

    /// x [tokens, d_in] to [tokens, d_out].
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val()) + self.bias.val().unsqueeze()
    }
}

/// Linear layers with f between them.
#[derive(Module, Debug)]
pub struct Perceptron {
    /// The layers.
    pub layers: Vec<Dense>,
    /// f.
    #[module(skip)]
    pub activation: Activation,
}

impl Perceptron {
    /// Layers of these widths, input first.
    pub(crate) fn init(widths: &[usize], activation: Activation, ctx: &InitContext) -> Self {
        let layer = |(index, pair): (usize, &[usize])| {
            Dense::init(pair[0], pair[1], pair[0], &format!("layers.{index}"), ctx)
        };
        Self {
            layers: widths.windows(2).enumerate().map(layer).collect(),
            activation,
        }
    }

    /// Values of a perceptron of these widths.
    pub(crate) fn count(widths: &[usize]) -> usize {
        widths.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum()
    }

    /// x [tokens, first width] to [tokens, last width].
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.layers.iter().enumerate().fold(x, |x, (index, layer)| {
            let x = match index {
                0 => x,
                _ => self.activation.apply(x),
            };
            layer.forward(x)
        })
    }
}

/// One layer of an LSTM in one direction, gates in the order i, f, g, o:
///
/// a_t = x_t W + b + h_(t-1) U + c, c_t = sigmoid(f) . c_(t-1) + sigmoid(i) . tanh(g),
/// h_t = sigmoid(o) . tanh(c_t).
#[derive(Module, Debug)]
pub struct LstmCell {
    /// W [d_in, 4 h] and b.
    pub input: Dense,
    /// U [h, 4 h] and c.
    pub state: Dense,
}

impl LstmCell {
    fn init(d_in: usize, hidden: usize, role: &str, ctx: &InitContext) -> Self {
        let dense = |d_in, part: &str| {
            Dense::init(d_in, 4 * hidden, hidden, &format!("{role}.{part}"), ctx)
        };
        Self {
            input: dense(d_in, "input"),
            state: dense(hidden, "state"),
        }
    }

    /// x [tokens, d_in] to [tokens, h], from the first token to the last or the other way round.
    fn forward(&self, x: Tensor<2>, backward: bool) -> Tensor<2> {
        let (tokens, hidden) = (x.dims()[0], self.state.weight.dims()[0]);
        let inputs = self.input.forward(x);
        let zeros = Tensor::<2>::zeros([1, hidden], &inputs.device()).cast(inputs.dtype());
        let (mut h, mut c) = (zeros.clone(), zeros);
        let mut outputs = Vec::with_capacity(tokens);
        for step in 0..tokens {
            let token = if backward { tokens - 1 - step } else { step };
            let gates = inputs.clone().narrow(0, token, 1) + self.state.forward(h);
            let gate = |index: usize| gates.clone().narrow(1, index * hidden, hidden);
            c = ops::sigmoid(gate(1)) * c + ops::sigmoid(gate(0)) * ops::tanh(gate(2));
            h = ops::sigmoid(gate(3)) * ops::tanh(c.clone());
            outputs.push(h.clone());
        }
        if backward {
            outputs.reverse();
        }
        Tensor::cat(outputs, 0)
    }
}

/// A bidirectional LSTM: each layer reads what both directions of the one below returned.
#[derive(Module, Debug)]
pub struct Lstm {
    /// The layers from the first token to the last.
    pub forward: Vec<LstmCell>,
    /// The layers from the last token to the first.
    pub backward: Vec<LstmCell>,
    /// Dropout probability between layers.
    pub dropout: f64,
}

impl Lstm {
    pub(crate) fn init(
        d_in: usize,
        hidden: usize,
        layers: usize,
        dropout: f64,
        ctx: &InitContext,
    ) -> Self {
        let cells = |direction: &str| {
            let cell = |layer| {
                let d_in = if layer == 0 { d_in } else { 2 * hidden };
                LstmCell::init(d_in, hidden, &format!("{direction}.{layer}"), ctx)
            };
            (0..layers).map(cell).collect()
        };
        Self {
            forward: cells("forward"),
            backward: cells("backward"),
            dropout,
        }
    }

    /// Values of an LSTM of these sizes.
    pub(crate) fn count(d_in: usize, hidden: usize, layers: usize) -> usize {
        let cell = |d_in: usize| 4 * hidden * (d_in + hidden + 2);
        2 * (cell(d_in) + (layers - 1) * cell(2 * hidden))
    }

    /// x [tokens, d_in] to [tokens, 2 h].
    pub fn forward(&self, x: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let both = self.forward.iter().zip(&self.backward).enumerate();
        both.fold(x, |x, (layer, (forward, backward))| {
            let x = match layer {
                0 => x,
                _ => dropout(x, self.dropout, ctx),
            };
            let ahead = forward.forward(x.clone(), false);
            Tensor::cat(vec![ahead, backward.forward(x, true)], 1)
        })
    }
}
