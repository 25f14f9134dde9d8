//! What every model's tests ask.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::file::read_tensors;
use engraft_core::{Adaptable, AnySite, Ctx, LayerShape, SiteAdapter, Slot, Slots, Text, params};
use engraft_tensor::bridge;
use serde_json::Value;

use crate::checkpoint::{LoadOptions, load};
use crate::pretrained::Pretrained;

/// The shapes, computed from the configuration, against the parameters, slots and sites there are.
pub(crate) fn agrees_with_its_shapes<M: Adaptable>(mut model: M) {
    let shapes = model.shapes();
    let mut listed: Vec<(String, usize)> = params::list(&model)
        .into_iter()
        .map(|found| (found.path, found.shape.iter().product()))
        .collect();
    let mut stated: Vec<(String, usize)> = shapes
        .params
        .iter()
        .map(|param| (param.path.clone(), param.numel))
        .collect();
    listed.sort();
    stated.sort();
    assert_eq!(listed, stated);

    let (mut layers, mut sites) = (Vec::new(), Vec::new());
    model.slots(&mut Slots::new(&mut |path, slot| match slot {
        Slot::Linear(linear) => layers.push(linear.base().shape(path)),
        Slot::Site(_) => sites.push(path.to_owned()),
    }));
    let plain = |layer: &LayerShape| {
        LayerShape::linear(layer.path.clone(), layer.d_in, layer.d_out, layer.bias)
    };
    assert_eq!(layers, shapes.layers.iter().map(plain).collect::<Vec<_>>());
    assert_eq!(
        sites,
        shapes
            .sites
            .iter()
            .map(|site| site.path.clone())
            .collect::<Vec<_>>()
    );
}

/// Trained tokens in front of the sequence.
#[derive(Module, Debug)]
pub(crate) struct Prompt {
    tokens: Param<Tensor<2>>,
}

impl Prompt {
    pub fn new(tokens: Tensor<2>) -> Self {
        Self {
            tokens: Param::from_tensor(tokens),
        }
    }
}

impl SiteAdapter for Prompt {
    fn extend_sequence(&self, tokens: Tensor<3>, _: &Ctx) -> Tensor<3> {
        let [batch, _, width] = tokens.dims();
        let own = self.tokens.val();
        let count = own.dims()[0];
        Tensor::cat(
            vec![own.unsqueeze::<3>().expand([batch, count, width]), tokens],
            1,
        )
    }
}

/// A checkpoint with inputs and outputs beside it.
///
/// The small ones in `fixtures` were computed by transformers 5.23 and PEFT 0.21 in PyTorch, eval mode, one
/// thread: models of width 8 with one or two layers, `initializer_range` 0.4 and N(0, 0.3^2) added to every
/// vector, `save_pretrained`, and a batch of three texts, the second padded behind, the third in
/// front. `prompt` and `prefix` are PEFT's `PromptTuningConfig` and `PrefixTuningConfig` on the bare models, with
/// N(0, 1) in their embeddings.
pub(crate) struct Case {
    pub model: Pretrained,
    pub tensors: BTreeMap<String, TensorData>,
}

/// Where the fixture is.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// Where the golden vectors of a model are.
pub(crate) fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../engraft-peft/vectors/models")
        .join(name)
}

impl Case {
    pub fn load(directory: &Path) -> Self {
        let options = LoadOptions::new(&Device::default(), DType::F32);
        Self {
            model: load(directory, &options).unwrap(),
            tensors: read_tensors(&directory.join("io.safetensors")).unwrap().0,
        }
    }

    pub fn get(&self, name: &str) -> TensorData {
        self.tensors[name].clone()
    }

    pub fn floats<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.get(name), (&Device::default(), DType::F32))
    }

    pub fn text(&self) -> Text {
        let ints = |name: &str| -> Option<Tensor<2, Int>> {
            let data = self.tensors.get(name)?.clone();
            Some(Tensor::from_data(data, &Device::default()))
        };
        let either = |a, b| ints(a).or(ints(b));
        Text {
            mask: either("in.mask", "in.attention_mask"),
            segments: ints("in.segments"),
            ..Text::new(either("in.ids", "in.input_ids").unwrap())
        }
    }

    /// Compares an output with the stored one: |a - b| <= atol + rtol |b|.
    pub fn agrees<const D: usize>(&self, name: &str, found: &Tensor<D>, [atol, rtol]: [f64; 2]) {
        let expected = self.floats::<D>(name);
        assert_eq!(found.dims(), expected.dims(), "{name}");
        let pairs = bridge::values(found).into_iter();
        for (at, (found, expected)) in pairs.zip(bridge::values(&expected)).enumerate() {
            assert!(
                (found - expected).abs() <= atol + rtol * expected.abs(),
                "{name}[{at}]: {found}, not {expected}"
            );
        }
    }

    /// The tolerance of a fixture's output: that of float32 sums in another order.
    pub fn usual(&self, name: &str) -> [f64; 2] {
        let largest = self
            .get(name)
            .iter::<f64>()
            .fold(0.0, |m, x| x.abs().max(m));
        [5e-6 * largest, 1e-5]
    }
}

/// The tolerances of a golden vector, by output.
pub(crate) fn tolerances(id: &str) -> BTreeMap<String, [f64; 2]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engraft-peft/vectors/index.json");
    let index: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = index["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["id"] == id).unwrap();
    let tolerance = case["tolerance"].as_object().unwrap().iter();
    let pair = |value: &Value| ["atol", "rtol"].map(|key| value[key].as_f64().unwrap());
    tolerance
        .map(|(name, value)| (name.clone(), pair(value)))
        .collect()
}

/// Attaches adapters to the sites whose path `make` knows.
pub(crate) fn attach<M: Adaptable>(model: &mut M, make: impl Fn(&str) -> Option<AnySite>) {
    let mut attached = 0;
    model.slots(&mut Slots::new(&mut |path, slot| {
        if let (Slot::Site(site), Some(adapter)) = (slot, make(path)) {
            site.attach(path, "test", adapter).unwrap();
            attached += 1;
        }
    }));
    assert!(attached > 0);
}
