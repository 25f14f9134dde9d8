//! The weight of a layer: numbers, or a few bits an entry.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{DType, Device, Tensor};
use engraft_tensor::ops::QuantisedWeight;

/// W, [d_in, d_out]: a `T`, which is a parameter in a slot and a tensor in what adapters see of it, or
/// quantised.
///
/// What is quantised is frozen and no parameter: records, counts of a module's parameters and
/// optimizers do not see it. It stays on the host, packed, and is decoded where it is read.
#[derive(Debug, Clone)]
pub enum Weight<T> {
    /// As numbers.
    Dense(T),
    /// In few bits.
    Quantised(Quantised),
}

/// A quantised weight, and where and in which precision it is read.
#[derive(Debug, Clone)]
pub struct Quantised {
    /// The weight.
    pub weight: QuantisedWeight,
    device: Device,
    dtype: DType,
}

impl Quantised {
    /// W as numbers.
    pub fn dense(&self) -> Tensor<2> {
        self.weight.dense(&self.device, self.dtype)
    }

    /// The precision it is read in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }
}

impl<T> Weight<T> {
    /// A quantised weight that is read on `device` in `dtype`.
    pub fn quantised(weight: QuantisedWeight, device: &Device, dtype: DType) -> Self {
        Self::Quantised(Quantised {
            weight,
            device: device.clone(),
            dtype,
        })
    }

    /// The weight in few bits, if it is that.
    pub fn as_quantised(&self) -> Option<&Quantised> {
        match self {
            Self::Dense(_) => None,
            Self::Quantised(quantised) => Some(quantised),
        }
    }
}

impl Weight<Tensor<2>> {
    /// W as numbers; decoded for the occasion if it is quantised.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone(),
            Self::Quantised(quantised) => quantised.dense(),
        }
    }

    /// d_in and d_out.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Quantised(quantised) => quantised.weight.dims(),
        }
    }

    /// Where it is read.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.device(),
            Self::Quantised(quantised) => quantised.device.clone(),
        }
    }

    /// The precision it is read in.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Quantised(quantised) => quantised.dtype,
        }
    }
}

impl Weight<Param<Tensor<2>>> {
    /// W as a tensor of its present value, or as the same few bits.
    pub fn view(&self) -> Weight<Tensor<2>> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.val()),
            Self::Quantised(quantised) => Weight::Quantised(quantised.clone()),
        }
    }

    /// W as numbers; decoded for the occasion if it is quantised.
    pub fn val(&self) -> Tensor<2> {
        self.view().dense()
    }

    /// d_in and d_out.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Quantised(quantised) => quantised.weight.dims(),
        }
    }
}

impl From<Tensor<2>> for Weight<Tensor<2>> {
    fn from(weight: Tensor<2>) -> Self {
        Self::Dense(weight)
    }
}

impl From<Param<Tensor<2>>> for Weight<Param<Tensor<2>>> {
    fn from(weight: Param<Tensor<2>>) -> Self {
        Self::Dense(weight)
    }
}

// A dense weight adds no level to paths.
impl<T: Module> Module for Weight<T> {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        match self {
            Self::Dense(weight) => weight.collect_devices(devices),
            Self::Quantised(quantised) => {
                if !devices.contains(&quantised.device) {
                    devices.push(quantised.device.clone());
                }
                devices
            }
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.fork(device)),
            Self::Quantised(quantised) => Self::Quantised(quantised.on(device.clone())),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.to_device(device)),
            Self::Quantised(quantised) => Self::Quantised(quantised.on(device.clone())),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.train()),
            Self::Quantised(quantised) => {
                let device = quantised.device.clone().autodiff();
                Self::Quantised(quantised.on(device))
            }
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.valid()),
            Self::Quantised(quantised) => {
                let device = quantised.device.clone().without_autodiff();
                Self::Quantised(quantised.clone().on(device))
            }
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.materialize()),
            quantised @ Self::Quantised(_) => quantised,
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if let Self::Dense(weight) = self {
            weight.visit(visitor);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.map(mapper)),
            quantised @ Self::Quantised(_) => quantised,
        }
    }
}

impl<T: ModuleDisplay> ModuleDisplayDefault for Weight<T> {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(weight) => weight.content(content),
            Self::Quantised(Quantised { weight, .. }) => {
                let ([d_in, d_out], how) = (weight.dims(), weight.how());
                let text = format!("{} [{d_in}, {d_out}]", how.format.name());
                content.add_single(&text).optional()
            }
        }
    }
}

impl<T: ModuleDisplay> ModuleDisplay for Weight<T> {}
