//! The multi-layer perceptron.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    Adaptable, Ctx, Error, Linear, ModelShapes, Named, Part, Result, Slots, Trained,
};
use engraft_tensor::Key;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;

/// Configuration of an [`Mlp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MlpConfig {
    /// Widths from input to output, at least two.
    pub dims: Vec<usize>,
    /// Between the layers.
    #[serde(default)]
    pub activation: Activation,
    /// Whether the layers have biases.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Whether the last layer is the task head.
    #[serde(default)]
    pub head: bool,
}

fn yes() -> bool {
    true
}

impl MlpConfig {
    /// Layers of these widths with biases and GELU between them, without a head.
    pub fn new(dims: &[usize]) -> Self {
        Self {
            dims: dims.to_vec(),
            activation: Activation::Gelu,
            bias: true,
            head: false,
        }
    }

    /// (name, d_in, d_out) of the layers: fc1, fc2, ...
    fn layers(&self) -> impl Iterator<Item = (String, usize, usize)> {
        self.dims
            .windows(2)
            .enumerate()
            .map(|(index, widths)| (format!("fc{}", index + 1), widths[0], widths[1]))
    }

    /// The model as shapes.
    pub fn shapes(&self) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        let last = self.dims.len().saturating_sub(2);
        for (index, (name, d_in, d_out)) in self.layers().enumerate() {
            let part = if self.head && index == last {
                Part::Head
            } else {
                Part::Body
            };
            shapes.push_linear(&name, d_in, d_out, self.bias, part);
        }
        shapes
    }
}

/// fc_n(f(... f(fc_1(x)))) with the activation f between the layers.
///
/// `Module` is written by hand so that the layers' names are the paths: `fc1.weight`, not
/// `layers.fc1.weight`.
#[derive(Debug, Clone)]
pub struct Mlp {
    layers: Named<Linear>,
    config: MlpConfig,
}

impl Mlp {
    /// A fresh model with the layers of PyTorch's `Linear`, from the streams of `key`.
    ///
    /// # Errors
    /// Fewer than two widths, or a width of 0.
    pub fn new(config: &MlpConfig, key: &Key, device: &Device, dtype: DType) -> Result<Self> {
        if config.dims.len() < 2 || config.dims.contains(&0) {
            let reason = format!(
                "found dims {:?}, expected at least two widths of at least 1",
                config.dims
            );
            return Err(Error::BadConfig {
                what: "mlp".to_owned(),
                reason,
            });
        }
        let mut layers = Named::default();
        for (name, d_in, d_out) in config.layers() {
            let layer = Linear::new(d_in, d_out, config.bias, &key.child(&name), device, dtype);
            layers.push(name, layer);
        }
        Ok(Self {
            layers,
            config: config.clone(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &MlpConfig {
        &self.config
    }

    /// The layer called `name` (fc1, fc2, ...).
    pub fn layer(&self, name: &str) -> Option<&Linear> {
        self.layers.get(name)
    }

    /// Outputs [..., last width] of inputs [..., first width].
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        let last = self.config.dims.len() - 2;
        self.layers
            .iter()
            .enumerate()
            .fold(x, |x, (index, (_, layer))| {
                let y = layer.forward(x, ctx);
                if index == last {
                    y
                } else {
                    self.config.activation.forward(y)
                }
            })
    }

    fn with(self, change: impl FnOnce(Named<Linear>) -> Named<Linear>) -> Self {
        Self {
            layers: change(self.layers),
            config: self.config,
        }
    }
}

impl Trained for Mlp {}

impl Adaptable for Mlp {
    fn shapes(&self) -> ModelShapes {
        self.config.shapes()
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        let names: Vec<String> = self.layers.names().map(str::to_owned).collect();
        for name in names {
            slots.linear(
                &name,
                self.layers.get_mut(&name).expect("it was just listed"),
            );
        }
    }
}

impl Module for Mlp {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.layers.collect_devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        self.with(|layers| layers.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.with(|layers| layers.to_device(device))
    }
    fn train(self) -> Self {
        self.with(Module::train)
    }
    fn valid(&self) -> Self {
        Self {
            layers: self.layers.valid(),
            config: self.config.clone(),
        }
    }
    fn materialize(self) -> Self {
        self.with(Module::materialize)
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.layers.visit(visitor)
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.with(|layers| layers.map(mapper))
    }
}

impl ModuleDisplayDefault for Mlp {
    fn content(&self, content: Content) -> Option<Content> {
        self.layers.content(content)
    }
}

impl ModuleDisplay for Mlp {}

#[cfg(test)]
mod tests {
    use engraft_tensor::Init;

    use super::*;
    use crate::testing::agrees_with_its_shapes;

    fn mlp(config: &MlpConfig) -> Mlp {
        Mlp::new(config, &Key::new(3), &Device::default(), DType::F64).unwrap()
    }

    #[test]
    fn shapes_and_slots_are_those_of_the_record() {
        for bias in [true, false] {
            let config = MlpConfig {
                bias,
                head: true,
                ..MlpConfig::new(&[5, 7, 1, 3])
            };
            agrees_with_its_shapes(mlp(&config));
            let shapes = config.shapes();
            assert!(shapes.is_head("fc3") && !shapes.is_head("fc2"));
            assert_eq!(shapes.head(), 3 + if bias { 3 } else { 0 });
        }
    }

    #[test]
    fn the_last_layer_is_not_activated() {
        let config = MlpConfig {
            activation: Activation::Relu,
            ..MlpConfig::new(&[4, 6, 2])
        };
        let model = mlp(&config);
        let x: Tensor<2> =
            Init::Normal { std: 1.0 }.tensor([3, 4], &Key::new(0), &Device::default(), DType::F64);
        let base = |name: &str, x| model.layer(name).unwrap().base().forward(x);
        let expected = base("fc2", base("fc1", x.clone()).clamp_min(0.0));
        model
            .forward(x, &Ctx::default())
            .to_data()
            .assert_eq(&expected.to_data(), true);
    }

    #[test]
    fn widths_are_checked() {
        let error = Mlp::new(
            &MlpConfig::new(&[4]),
            &Key::new(0),
            &Device::default(),
            DType::F32,
        )
        .unwrap_err();
        assert!(error.to_string().contains("[4]"), "{error}");
    }
}
