//! The products that a frozen network needs, and nothing else.

use engraft_kernels::{Mat, Onto, matmul};

use crate::shapes::Net;

/// Operands of a network's products: x W forward, g W^T backward but for the first layer.
#[derive(Debug)]
pub struct Products {
    dims: Vec<usize>,
    tokens: usize,
    weights: Vec<Vec<f32>>,
    activations: Vec<Vec<f32>>,
}

impl Products {
    /// The products of a network on `tokens` tokens.
    pub fn new(net: &Net, tokens: usize) -> Self {
        let filled = |len: usize| vec![0.01f32; len];
        Self {
            weights: net
                .dims
                .windows(2)
                .map(|pair| filled(pair[0] * pair[1]))
                .collect(),
            activations: net
                .dims
                .iter()
                .map(|width| filled(tokens * width))
                .collect(),
            dims: net.dims.clone(),
            tokens,
        }
    }

    /// All of them once.
    pub fn run(&mut self) {
        let Self {
            dims,
            tokens,
            weights,
            activations,
        } = self;
        for (layer, weight) in weights.iter().enumerate() {
            let (d_in, d_out) = (dims[layer], dims[layer + 1]);
            let (before, after) = activations.split_at_mut(layer + 1);
            let (x, y) = (Mat::new(&before[layer], *tokens, d_in), &mut after[0]);
            matmul(
                (y, d_out),
                Onto::Nothing,
                x,
                Mat::new(weight, d_in, d_out),
                1.0,
            );
        }
        for (layer, weight) in weights.iter().enumerate().skip(1).rev() {
            let (d_in, d_out) = (dims[layer], dims[layer + 1]);
            let (before, after) = activations.split_at_mut(layer + 1);
            let (g, gx) = (Mat::new(&after[0], *tokens, d_out), &mut before[layer]);
            matmul(
                (gx, d_in),
                Onto::Nothing,
                g,
                Mat::new(weight, d_in, d_out).t(),
                1.0,
            );
        }
    }
}
