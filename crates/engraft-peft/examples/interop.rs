//! Writes an adapter of every method that has a PEFT type, with inputs and outputs, for
//! `interop/check_peft.py`, which loads them in PEFT and compares:
//!
//! `cargo run -p engraft-peft --example interop -- DIRECTORY`

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{env, fs};

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::{
    Adaptable, Adapted, AnyMethod, Injection, LayerShape, Linear, Mode, ModelShapes, Part, Slots,
    file,
};
use engraft_tensor::Key;
use engraft_testkit::random;

type Error = Box<dyn std::error::Error>;

/// A configuration that PEFT can express, of methods whose suite has none.
const ALSO: (&str, &str) = ("shira", r#"{"rank": 2}"#);

const WIDTHS: [usize; 3] = [24, 40, 16];

/// fc1, relu, fc2.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Adaptable for Mlp {
    fn shapes(&self) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        shapes.push_linear("fc1", WIDTHS[0], WIDTHS[1], true, Part::Body);
        shapes.push_linear("fc2", WIDTHS[1], WIDTHS[2], true, Part::Body);
        shapes
    }
    fn slots(&mut self, slots: &mut Slots<'_>) {
        slots.linear("fc1", &mut self.fc1);
        slots.linear("fc2", &mut self.fc2);
    }
}

fn device() -> Device {
    Device::default().autodiff()
}

fn model() -> Adapted<Mlp> {
    let layer = |name: &str, index: usize| {
        let key = Key::new(1).child(name);
        let [d_in, d_out] = [WIDTHS[index], WIDTHS[index + 1]];
        Linear::new(d_in, d_out, true, &key, &device(), DType::F32)
    };
    Adapted::new(Mlp {
        fc1: layer("fc1", 0),
        fc2: layer("fc2", 1),
    })
}

fn input() -> Tensor<2> {
    random::normal([5, WIDTHS[0]], "x", &device(), DType::F32)
}

fn forward(model: &Adapted<Mlp>, mode: Mode) -> Tensor<2> {
    let ctx = model.ctx(mode);
    let hidden = relu(model.model.fc1.forward(input(), &ctx));
    model.model.fc2.forward(hidden, &ctx)
}

/// The method attached, its trained parameters moved.
fn adapted(method: &AnyMethod) -> engraft_core::Result<Adapted<Mlp>> {
    let mut model = model();
    let injection = Injection::new(3);
    let calibration = model.calibrate(method, &injection, [()], |model, ()| {
        forward(model, Mode::Eval).powi_scalar(2).sum()
    })?;
    model.attach_calibrated("default", method, &injection, &calibration)?;
    Ok(random::perturb_trained(model, 0.1, 2))
}

/// The configurations of the contract suite, and the default one, that both layers admit.
fn examples(entry: &engraft_core::MethodEntry) -> Vec<AnyMethod> {
    let layers = [0, 1].map(|at| LayerShape::linear("fc", WIDTHS[at], WIDTHS[at + 1], true));
    let default = entry.parse(&serde_json::Value::Null).into_iter();
    let also = (entry.meta.id == ALSO.0).then(|| serde_json::from_str(ALSO.1).unwrap_or_default());
    let also = also.and_then(|config| entry.parse(&config).ok());
    entry
        .examples(&layers[0])
        .into_iter()
        .chain(default)
        .chain(also)
        .filter(|method| match &method.parts().graft {
            Some(graft) => layers.iter().all(|layer| graft.admits(layer).is_ok()),
            None => true,
        })
        .collect()
}

fn main() -> Result<(), Error> {
    let directory = env::args()
        .nth(1)
        .ok_or("expected the directory to write to")?;
    let directory = Path::new(&directory);
    let mut refused = BTreeMap::new();
    let mut written = 0;
    for entry in engraft::METHODS
        .iter()
        .filter(|entry| entry.meta.peft.is_some())
    {
        for (index, method) in examples(entry).iter().enumerate() {
            let name = format!("{}-{index}", entry.meta.id);
            let at = directory.join(&name);
            let outcome = adapted(method)
                .map_err(Error::from)
                .and_then(|model| write(&model, &at));
            match outcome {
                Ok(()) => written += 1,
                Err(reason) => {
                    refused.insert(name, reason.to_string());
                }
            }
        }
    }
    for (name, reason) in &refused {
        println!("refused {name}: {reason}");
    }
    println!("{written} adapters written, {} refused", refused.len());
    let refused = serde_json::to_string_pretty(&refused)?;
    Ok(file::write_atomically(
        &directory.join("refused.json"),
        refused.as_bytes(),
    )?)
}

fn write(model: &Adapted<Mlp>, at: &Path) -> Result<(), Error> {
    engraft_peft::save(model, "default", at)?;
    let y = forward(model, Mode::Eval);
    let mut tensors: BTreeMap<String, TensorData> = BTreeMap::from([
        ("x".to_owned(), input().to_data()),
        ("y".to_owned(), y.to_data()),
    ]);
    // The base as it was before anything was attached.
    let base = self::model().model;
    for (name, layer) in [("fc1", &base.fc1), ("fc2", &base.fc2)] {
        let weight = layer.weight.val().transpose().to_data();
        tensors.insert(format!("{name}.weight"), weight);
        let bias = layer.bias.as_ref().ok_or("the layers have biases")?;
        tensors.insert(format!("{name}.bias"), bias.val().to_data());
    }
    fs::create_dir_all(at)?;
    file::write_tensors(&at.join("io.safetensors"), &tensors, HashMap::new())?;
    Ok(())
}
