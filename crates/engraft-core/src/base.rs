//! The frozen layer that an adapter is grafted onto.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};

use engraft_tensor::ops::{QuantisedWeight, linear, matmul, quantised_linear, quantised_tied};

use crate::lookup::Lookup;
use crate::shape::LayerShape;
use crate::weight::Weight;

/// Weight and bias of a layer, seen as the linear map y = x W + b.
///
/// # Shapes
/// - weight: [d_in, d_out] (Burn's layout; PyTorch stores (out, in))
/// - `bias`: `[d_out]`
///
/// The weight may be quantised: then [`forward`](Self::forward) and [`tied`](Self::tied) decode it
/// piece by piece, and [`weight`](Self::weight) as a whole, each time.
///
/// It is plain data: a view of a slot's parameters before adaptation, and also the result of a
/// weight form after it.
#[derive(Module, Debug)]
pub struct FrozenBase {
    stored: Weight<Tensor<2>>,
    /// b, `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

impl FrozenBase {
    /// A base from its weight and bias.
    pub fn new(weight: impl Into<Weight<Tensor<2>>>, bias: Option<Tensor<1>>) -> Self {
        Self {
            stored: weight.into(),
            bias,
        }
    }

    /// W, [d_in, d_out]. Of a quantised layer it is decoded for the occasion.
    pub fn weight(&self) -> Tensor<2> {
        self.stored.dense()
    }

    /// The weight as the layer holds it.
    pub fn stored(&self) -> &Weight<Tensor<2>> {
        &self.stored
    }

    /// The weight in few bits, if it is quantised.
    pub fn quantised(&self) -> Option<&QuantisedWeight> {
        self.stored.as_quantised().map(|stored| &stored.weight)
    }

    /// y = x W + b for tokens x: [tokens, d_in].
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.stored {
            Weight::Dense(weight) => linear(x, weight.clone(), self.bias.clone()),
            Weight::Quantised(stored) => quantised_linear(x, &stored.weight, self.bias.clone()),
        }
    }

    /// y = W[i, :] + b for one index i per token: the rows of an embedding.
    pub fn lookup(&self, rows: &Lookup) -> Tensor<2> {
        self.add_bias(rows.of(self.weight()))
    }

    /// y = x W^T for tokens x: [tokens, d_out]: the output layer that shares an embedding's weight.
    pub fn tied(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.stored {
            Weight::Dense(weight) => matmul(x, weight.clone().transpose()),
            Weight::Quantised(stored) => quantised_tied(x, &stored.weight),
        }
    }

    /// y + b.
    pub fn add_bias(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => y + bias.clone().unsqueeze(),
            None => y,
        }
    }

    /// The same layer with another weight.
    pub fn with_weight(&self, weight: impl Into<Weight<Tensor<2>>>) -> Self {
        Self::new(weight, self.bias.clone())
    }

    /// Inputs.
    pub fn d_in(&self) -> usize {
        self.stored.dims()[0]
    }

    /// Outputs.
    pub fn d_out(&self) -> usize {
        self.stored.dims()[1]
    }

    /// Where the weight lives.
    pub fn device(&self) -> Device {
        self.stored.device()
    }

    /// The weight's precision.
    pub fn dtype(&self) -> DType {
        self.stored.dtype()
    }

    /// The layer as a shape.
    pub fn shape(&self, path: &str) -> LayerShape {
        LayerShape::linear(path, self.d_in(), self.d_out(), self.bias.is_some())
    }
}
