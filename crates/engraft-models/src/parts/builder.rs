//! Building a model parameter by parameter, wherever the values come from.

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::{Embedding, Linear, Weight};
use engraft_tensor::ops::QuantisedWeight;
use engraft_tensor::{Init, Key};

/// A parameter that a model asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// Path in the model's record.
    pub path: String,
    /// Shape in the model.
    pub shape: Vec<usize>,
    /// Shape in a checkpoint.
    pub stored: Vec<usize>,
    /// Whether the checkpoint's first axis is the model's last: PyTorch's linear layers and
    /// convolutions have their outputs first.
    pub transposed: bool,
    /// How a fresh one starts.
    pub init: Init,
}

/// Where parameters come from.
pub(crate) trait Source {
    /// The values of a parameter, of the wanted shape and precision.
    fn values(&mut self, wanted: Wanted, dtype: DType) -> TensorData;

    /// The weight of a linear layer in few bits, where it is to be quantised.
    fn quantised(&mut self, wanted: &Wanted, dtype: DType) -> Option<QuantisedWeight> {
        let _ = (wanted, dtype);
        None
    }
}

/// Fresh parameters from the streams of a key, one for each path.
#[derive(Debug)]
pub(crate) struct Random(pub Key);

impl Source for Random {
    fn values(&mut self, wanted: Wanted, dtype: DType) -> TensorData {
        let count = wanted.shape.iter().product();
        let values = wanted.init.values(count, &self.0.child(&wanted.path));
        TensorData::new(values, wanted.shape).convert_dtype(dtype)
    }
}

/// Lists what a model asks for, in forward order, and gives it empty tensors: for names and shapes,
/// not for use.
#[derive(Debug, Default)]
pub(crate) struct Listing(pub Vec<Wanted>);

impl Source for Listing {
    fn values(&mut self, wanted: Wanted, dtype: DType) -> TensorData {
        let empty = vec![0; wanted.shape.len()];
        self.0.push(wanted);
        TensorData::new(Vec::<f32>::new(), empty).convert_dtype(dtype)
    }
}

/// Makes the parts of a model from a source.
pub(crate) struct Builder<'a> {
    source: &'a mut dyn Source,
    path: String,
    device: &'a Device,
    dtype: DType,
    std: f64,
}

impl<'a> Builder<'a> {
    /// A builder whose fresh weights are N(0, std^2), std the `initializer_range` of a config.json.
    pub fn new(source: &'a mut dyn Source, device: &'a Device, dtype: DType, std: f64) -> Self {
        Self {
            source,
            path: String::new(),
            device,
            dtype,
            std,
        }
    }

    /// The builder of the part called `name`; an empty name is no level of the path.
    pub fn within(&mut self, name: &str) -> Builder<'_> {
        Builder {
            path: self.join(name),
            source: self.source,
            device: self.device,
            dtype: self.dtype,
            std: self.std,
        }
    }

    /// Where the builder is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of the part called `name`.
    pub fn join(&self, name: &str) -> String {
        match (self.path.as_str(), name) {
            (path, "") => path.to_owned(),
            ("", name) => name.to_owned(),
            (path, name) => format!("{path}.{name}"),
        }
    }

    /// A linear layer [d_in, d_out], stored as (d_out, d_in).
    pub fn linear(&mut self, name: &str, d_in: usize, d_out: usize, bias: bool) -> Linear {
        self.layer(name, [d_in, d_out], vec![d_out, d_in], true, bias)
    }

    /// A linear layer [d_in, d_out], stored as it is: GPT-2's `Conv1D`.
    pub fn conv1d(&mut self, name: &str, d_in: usize, d_out: usize) -> Linear {
        self.layer(name, [d_in, d_out], vec![d_in, d_out], false, true)
    }

    /// A convolution without overlap as a linear layer [channels * height * width, d_out], stored as
    /// (d_out, channels, height, width).
    pub fn patches(&mut self, name: &str, kernel: [usize; 3], d_out: usize) -> Linear {
        let [channels, height, width] = kernel;
        let stored = vec![d_out, channels, height, width];
        self.layer(name, [channels * height * width, d_out], stored, true, true)
    }

    fn layer(
        &mut self,
        name: &str,
        shape: [usize; 2],
        stored: Vec<usize>,
        transposed: bool,
        bias: bool,
    ) -> Linear {
        let mut here = self.within(name);
        let wanted = Wanted {
            path: here.join("weight"),
            shape: shape.to_vec(),
            stored,
            transposed,
            init: Init::Normal { std: here.std },
        };
        let weight = match here.source.quantised(&wanted, here.dtype) {
            Some(weight) => Weight::quantised(weight, here.device, here.dtype),
            None => Param::from_tensor(here.tensor::<2>(wanted)).into(),
        };
        let bias = bias.then(|| here.plain("bias", [shape[1]], Init::ZEROS));
        Linear::from_weight(weight, bias)
    }

    /// A table of `rows` vectors.
    pub fn embedding(&mut self, name: &str, rows: usize, width: usize) -> Embedding {
        let init = Init::Normal { std: self.std };
        let table = self.within(name).plain("weight", [rows, width], init);
        Embedding::new(table)
    }

    /// A parameter that is stored as it is.
    pub fn param<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Param<Tensor<D>> {
        Param::from_tensor(self.plain(name, shape, init))
    }

    /// A parameter that is stored as it is, fresh ones N(0, std^2).
    pub fn normal<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        let init = Init::Normal { std: self.std };
        self.param(name, shape, init)
    }

    fn plain<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Init) -> Tensor<D> {
        let wanted = Wanted {
            path: self.join(name),
            shape: shape.to_vec(),
            stored: shape.to_vec(),
            transposed: false,
            init,
        };
        self.tensor(wanted)
    }

    fn tensor<const D: usize>(&mut self, wanted: Wanted) -> Tensor<D> {
        let data = self.source.values(wanted, self.dtype);
        Tensor::from_data(data, (self.device, self.dtype))
    }
}
