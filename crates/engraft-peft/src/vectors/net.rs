//! The base networks of the vectors.

use std::collections::BTreeMap;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::{
    Adaptable, Conv2d, Ctx, Embedding, LayerKind, Linear, ModelShapes, Named, Part, Patches, Slots,
};

use super::case::Net;
use crate::error::Error;
use crate::field::Layout;
use crate::pair::Pair;

/// The layers of a case, with the record keys of the vectors: fc1, relu, fc2, relu ...; an
/// embedding and a linear layer; a convolution; stacked experts.
#[derive(Debug, Clone)]
pub(super) struct Network {
    layers: Named<Linear>,
    norms: Named<Norm>,
    form: Form,
}

/// What a network computes and how the vectors store its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `torch.nn.Linear`: (out, in).
    Linear,
    /// The `Conv1D` of transformers: (in, out).
    Conv1d,
    /// `torch.nn.Embedding` and a linear layer.
    Embedding,
    /// `torch.nn.Conv2d`: (out, in, kh, kw).
    Conv2d(Patches),
    /// (experts, out, in): y[.., e, :] = x W_e.
    Experts,
    /// `torch.nn.Linear`, `torch.nn.LayerNorm` and `torch.nn.Linear`.
    Norm,
}

/// `torch.nn.LayerNorm`, as it starts.
const EPSILON: f64 = 1e-5;

/// Gain and offset of a normalisation.
#[derive(Module, Debug)]
struct Norm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl Norm {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = centred.clone().powi_scalar(2).mean_dim(1);
        let y = centred / (variance + EPSILON).sqrt();
        y * self.weight.val().unsqueeze() + self.bias.val().unsqueeze()
    }
}

impl Form {
    /// The form of a kind of network.
    ///
    /// # Errors
    /// Kinds of layers that are not there yet.
    pub(super) fn of(net: &Net) -> Result<Self, Error> {
        Ok(match net.kind.as_str() {
            "mlp" => Self::Linear,
            "conv1d" => Self::Conv1d,
            "emb" => Self::Embedding,
            "conv2d" => Self::Conv2d(Patches {
                stride: [net.stride; 2],
                padding: [net.padding; 2],
                ..Patches::of([net.k; 2])
            }),
            "moe" => Self::Experts,
            "ln" => Self::Norm,
            other => {
                return Err(Error::Unsupported(format!(
                    "networks of kind `{other}` are not supported yet"
                )));
            }
        })
    }

    /// A parameter of the network on both sides; `key` is its path.
    pub(super) fn pair(self, key: &str, shape: &[usize]) -> Pair {
        let turned = match self {
            Self::Conv1d => false,
            Self::Embedding => shape.len() == 2 && !key.starts_with("emb"),
            _ => shape.len() >= 2,
        };
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

    fn kind(self, layer: &str) -> LayerKind {
        match self {
            Self::Linear | Self::Conv1d | Self::Norm => LayerKind::Linear,
            Self::Embedding if layer == "emb" => LayerKind::Embedding,
            Self::Embedding => LayerKind::Linear,
            Self::Conv2d(patches) => LayerKind::Conv2d {
                kernel: patches.kernel,
            },
            Self::Experts => LayerKind::Experts,
        }
    }

    /// Whether weights are stored (in, out).
    pub(super) fn in_out(self) -> bool {
        self == Self::Conv1d
    }
}

/// Replaces stacked weights by those of the experts.
pub(super) fn unstack(values: &mut BTreeMap<String, TensorData>) {
    let stacked: Vec<String> = values
        .iter()
        .filter(|(_, data)| data.shape().len() == 3)
        .map(|(key, _)| key.clone())
        .collect();
    for key in stacked {
        let (Some(data), Some(path)) = (values.remove(&key), key.strip_suffix(".weight")) else {
            continue;
        };
        let shape = data.shape().to_vec();
        let bytes = data.as_bytes().len() / shape[0];
        for (expert, own) in data.as_bytes().chunks(bytes).enumerate() {
            let own = TensorData::from_bytes_vec(own.to_vec(), shape[1..].to_vec(), data.dtype());
            values.insert(format!("{path}.{expert}.weight"), own);
        }
    }
}

/// A parameter of the network as the vectors store it, experts stacked.
pub(super) fn stacked(
    form: Form,
    key: &str,
    like: &TensorData,
    values: &BTreeMap<String, TensorData>,
) -> Option<TensorData> {
    let shape = like.shape().to_vec();
    let (Form::Experts, [experts, rest @ ..]) = (form, &shape[..]) else {
        return Some(form.pair(key, &shape).to_peft(values.get(key)?));
    };
    let path = key.strip_suffix(".weight")?;
    let mut bytes = Vec::new();
    for expert in 0..*experts {
        let own = format!("{path}.{expert}.weight");
        let expert = form.pair(&own, rest).to_peft(values.get(&own)?);
        bytes.extend_from_slice(expert.as_bytes());
    }
    Some(TensorData::from_bytes_vec(bytes, shape, like.dtype()))
}

impl Network {
    /// The network of a case with these parameters, by path.
    pub(super) fn new(
        form: Form,
        values: &BTreeMap<String, TensorData>,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut layers = Named::default();
        let mut names: Vec<&str> = values
            .keys()
            .filter_map(|key| key.strip_suffix(".weight"))
            .collect();
        // fc2 before fc10.
        names.sort_by_key(|name| (name.len(), *name));
        let mut norms = Named::default();
        for name in names {
            let key = &format!("{name}.weight");
            let weight = &values[key];
            if form == Form::Norm && weight.shape().len() == 1 {
                let tensor = |data: &TensorData| {
                    Param::from_tensor(Tensor::from_data(data.clone(), (device, DType::F32)))
                };
                let [weight, bias] =
                    [key.clone(), format!("{name}.bias")].map(|key| tensor(&values[&key]));
                norms.push(name, Norm { weight, bias });
                continue;
            }
            let weight = form.pair(key, &weight.shape().to_vec()).to_own(weight)?;
            let bias = values
                .get(&format!("{name}.bias"))
                .map(|bias| Tensor::from_data(bias.clone(), (device, DType::F32)));
            layers.push(
                name,
                Linear::from_tensors(Tensor::from_data(weight, (device, DType::F32)), bias),
            );
        }
        Ok(Self {
            layers,
            norms,
            form,
        })
    }

    /// The output, flattened, of an input of this shape that is given flattened.
    pub(super) fn forward(&self, x: &Tensor<1>, shape: &[usize], ctx: &Ctx) -> Tensor<1> {
        let flat = |y: Tensor<2>| -> Tensor<1> { y.flatten(0, 1) };
        let width = shape.last().copied().unwrap_or(1);
        let tokens = || x.clone().reshape([-1, width as i64]);
        match self.form {
            Form::Linear | Form::Conv1d => flat(self.in_turn(tokens(), ctx)),
            Form::Norm => {
                let layer = |name: &str| self.layers.get(name).expect("read from the case");
                let (_, norm) = self.norms.iter().next().expect("read from the case");
                let x = norm.forward(layer("fc1").forward(tokens(), ctx));
                flat(layer("fc2").forward(x, ctx))
            }
            Form::Embedding => {
                let (batch, count) = (shape[0], shape[1]);
                let indices = x.clone().int().reshape([batch, count]);
                let y = self.embedding().forward(indices, ctx);
                let layer = self.layers.get("fc1").expect("read from the case");
                flat(layer.forward(y, ctx).reshape([-1, 1]))
            }
            Form::Conv2d(patches) => {
                let (_, linear) = self.layers.iter().next().expect("read from the case");
                let convolution = Conv2d {
                    linear: linear.clone(),
                    patches,
                };
                let image = [shape[0], shape[1], shape[2], shape[3]];
                convolution
                    .forward(x.clone().reshape(image), ctx)
                    .flatten(0, 3)
            }
            Form::Experts => {
                let y = self
                    .layers
                    .iter()
                    .map(|(_, expert)| expert.forward(tokens(), ctx));
                Tensor::stack::<3>(y.collect(), 1).flatten(0, 2)
            }
        }
    }

    fn embedding(&self) -> Embedding {
        let linear = self.layers.get("emb").expect("read from the case");
        linear.clone().into()
    }

    /// Tokens [n, d_in] to [n, d_out] through all layers.
    fn in_turn(&self, x: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        self.layers
            .iter()
            .enumerate()
            .fold(x, |x, (index, (_, layer))| {
                layer.forward(if index == 0 { x } else { relu(x) }, ctx)
            })
    }
}

impl Adaptable for Network {
    fn shapes(&self) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        for (name, layer) in self.layers.iter() {
            let [d_in, d_out] = layer.weight.dims();
            shapes.push_linear(name, d_in, d_out, layer.bias.is_some(), Part::Body);
            if let Some(last) = shapes.layers.last_mut() {
                last.kind = self.form.kind(name);
            }
        }
        for (name, norm) in self.norms.iter() {
            let width = norm.weight.val().dims()[0];
            shapes.push_param(format!("{name}.weight"), width, Part::Norm, false);
            shapes.push_param(format!("{name}.bias"), width, Part::Norm, true);
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

// Forwards to the named layers and norms, so that paths are `fc1.weight` without a level above.
impl Module for Network {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.norms
            .collect_devices(self.layers.collect_devices(devices))
    }
    fn fork(self, device: &Device) -> Self {
        self.change(|layers| layers.fork(device), |norms| norms.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.change(
            |layers| layers.to_device(device),
            |norms| norms.to_device(device),
        )
    }
    fn train(self) -> Self {
        self.change(Module::train, Module::train)
    }
    fn valid(&self) -> Self {
        Self {
            layers: self.layers.valid(),
            norms: self.norms.valid(),
            form: self.form,
        }
    }
    fn materialize(self) -> Self {
        self.change(Module::materialize, Module::materialize)
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.layers.visit(visitor);
        self.norms.visit(visitor);
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let layers = self.layers.map(mapper);
        let norms = self.norms.map(mapper);
        Self {
            layers,
            norms,
            form: self.form,
        }
    }
}

impl Network {
    fn change(
        self,
        layers: impl FnOnce(Named<Linear>) -> Named<Linear>,
        norms: impl FnOnce(Named<Norm>) -> Named<Norm>,
    ) -> Self {
        Self {
            layers: layers(self.layers),
            norms: norms(self.norms),
            form: self.form,
        }
    }
}

impl ModuleDisplayDefault for Network {
    fn content(&self, content: Content) -> Option<Content> {
        self.layers.content(content)
    }
}

impl ModuleDisplay for Network {}
