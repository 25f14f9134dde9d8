//! The frozen layer that an adapter is grafted onto.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};

use engraft_tensor::ops::{linear, matmul};

use crate::lookup::Lookup;
use crate::shape::LayerShape;

/// Weight and bias of a layer, seen as the linear map y = x W + b.
///
/// # Shapes
/// - `weight`: [d_in, d_out] (Burn's layout; PyTorch stores (out, in))
/// - `bias`: `[d_out]`
///
/// It is plain data: a view of a slot's parameters before adaptation, and also the result of a
/// weight form after it.
#[derive(Module, Debug)]
pub struct FrozenBase {
    /// W, [d_in, d_out].
    pub weight: Tensor<2>,
    /// b, `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

impl FrozenBase {
    /// A base from its weight and bias.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { weight, bias }
    }

    /// y = x W + b for tokens x: [tokens, d_in].
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(x, self.weight.clone(), self.bias.clone())
    }

    /// y = W[i, :] + b for one index i per token: the rows of an embedding.
    pub fn lookup(&self, rows: &Lookup) -> Tensor<2> {
        self.add_bias(rows.of(self.weight.clone()))
    }

    /// y = x W^T for tokens x: [tokens, d_out]: the output layer that shares an embedding's weight.
    pub fn tied(&self, x: Tensor<2>) -> Tensor<2> {
        matmul(x, self.weight.clone().transpose())
    }

    /// y + b.
    pub fn add_bias(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => y + bias.clone().unsqueeze(),
            None => y,
        }
    }

    /// The same layer with another weight.
    pub fn with_weight(&self, weight: Tensor<2>) -> Self {
        Self {
            weight,
            bias: self.bias.clone(),
        }
    }

    /// Inputs.
    pub fn d_in(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Outputs.
    pub fn d_out(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Where the weight lives.
    pub fn device(&self) -> Device {
        self.weight.device()
    }

    /// The weight's precision.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// The layer as a shape.
    pub fn shape(&self, path: &str) -> LayerShape {
        LayerShape::linear(path, self.d_in(), self.d_out(), self.bias.is_some())
    }
}
