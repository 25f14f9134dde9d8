//! The base networks of the vectors.

use std::collections::BTreeMap;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::{Adaptable, Ctx, Linear, ModelShapes, Named, Part, Slots};

use super::case::Net;
use crate::error::Error;
use crate::field::{Layout, Pair};

/// fc1, relu, fc2, relu ...: layers whose record keys are those of the vectors.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    layers: Named<Linear>,
}

/// How a network of the vectors stores its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// `torch.nn.Linear`: (out, in).
    Linear,
    /// The `Conv1D` of transformers: (in, out).
    Conv1d,
}

impl Storage {
    /// The storage of a kind of network.
    ///
    /// # Errors
    /// Kinds of layers that are not there yet.
    pub(super) fn of(net: &Net) -> Result<Self, Error> {
        let missing = |what: &str| Err(Error::Unsupported(format!("{what} are not supported yet")));
        match net.kind.as_str() {
            "mlp" => Ok(Self::Linear),
            "conv1d" => Ok(Self::Conv1d),
            "emb" => missing("embedding layers"),
            "conv2d" => missing("Conv2d layers"),
            "moe" => missing("stacked experts"),
            "ln" => missing("layer norms"),
            other => missing(&format!("networks of kind `{other}`")),
        }
    }

    /// A parameter of the network on both sides; `key` is its path.
    pub(super) fn pair(self, key: &str, shape: &[usize]) -> Pair {
        let turned = self == Self::Linear && shape.len() == 2;
        Pair {
            peft: key.to_owned(),
            own: key.to_owned(),
            shape: shape.to_vec(),
            layout: if turned {
                Layout::Transposed
            } else {
                Layout::Same
            },
        }
    }
}

impl Mlp {
    /// The network of a case with these parameters, by path.
    pub(super) fn new(
        net: &Net,
        storage: Storage,
        values: &BTreeMap<String, TensorData>,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut layers = Named::default();
        for layer in 1..net.dims.len() {
            let name = format!("fc{layer}");
            let key = format!("{name}.weight");
            let weight = values
                .get(&key)
                .ok_or_else(|| Error::Tensors(format!("base.{key} is missing")))?;
            let weight = storage.pair(&key, weight.shape()).to_own(weight)?;
            let bias = values
                .get(&format!("{name}.bias"))
                .map(|bias| Tensor::from_data(bias.clone(), (device, DType::F32)));
            layers.push(
                name,
                Linear::from_tensors(Tensor::from_data(weight, (device, DType::F32)), bias),
            );
        }
        Ok(Self { layers })
    }

    /// Tokens [n, d_in] to [n, d_out].
    pub(super) fn forward(&self, x: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        self.layers
            .iter()
            .enumerate()
            .fold(x, |x, (index, (_, layer))| {
                layer.forward(if index == 0 { x } else { relu(x) }, ctx)
            })
    }
}

impl Adaptable for Mlp {
    fn shapes(&self) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        for (name, layer) in self.layers.iter() {
            let [d_in, d_out] = layer.weight.dims();
            shapes.push_linear(name, d_in, d_out, layer.bias.is_some(), Part::Body);
        }
        shapes
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        let names: Vec<String> = self.layers.names().map(str::to_owned).collect();
        for name in names {
            if let Some(layer) = self.layers.get_mut(&name) {
                slots.linear(&name, layer);
            }
        }
    }
}

// Forwards to the named layers, so that paths are `fc1.weight` without a level above.
impl Module for Mlp {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.layers.collect_devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        Self {
            layers: self.layers.fork(device),
        }
    }
    fn to_device(self, device: &Device) -> Self {
        Self {
            layers: self.layers.to_device(device),
        }
    }
    fn train(self) -> Self {
        Self {
            layers: self.layers.train(),
        }
    }
    fn valid(&self) -> Self {
        Self {
            layers: self.layers.valid(),
        }
    }
    fn materialize(self) -> Self {
        Self {
            layers: self.layers.materialize(),
        }
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.layers.visit(visitor)
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self {
            layers: self.layers.map(mapper),
        }
    }
}

impl ModuleDisplayDefault for Mlp {
    fn content(&self, content: Content) -> Option<Content> {
        self.layers.content(content)
    }
}

impl ModuleDisplay for Mlp {}
