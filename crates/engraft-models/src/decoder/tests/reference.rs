//! Outputs, generated tokens and files against those of `transformers` and PEFT.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::file::{read_tensors, write_tensors};
use engraft_core::{Adaptable, AnySite, Ctx, SiteAdapter, Slot, Slots, Text, params};
use engraft_tensor::{Key, bridge};
use serde_json::Value;

use super::close;
use crate::checkpoint::{LoadOptions, LoadReport, load};
use crate::decoder::{Generation, Sampling, generate};
use crate::output::{Logits, Output};
use crate::parts::{Builder, Source, Wanted};
use crate::pretrained::{Config, Pretrained};
use crate::task::Task;
use crate::testing::agrees_with_its_shapes;

/// Tensors of a file.
type Tensors = BTreeMap<String, TensorData>;

fn fixture() -> (Vec<Value>, Tensors) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/decoders");
    let text = std::fs::read_to_string(directory.join("decoders.json")).unwrap();
    let (tensors, _) = read_tensors(&directory.join("decoders.safetensors")).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors)
}

/// Parameters from tensors under the names of their paths, behind a prefix.
struct Stored<'a>(&'a Tensors, String);

impl Source for Stored<'_> {
    fn values(&mut self, wanted: Wanted, dtype: DType) -> TensorData {
        let find = |name: String| self.0.get(&name);
        let data = find(format!("{}{}", self.1, wanted.path))
            .or_else(|| find(format!("{}model.{}", self.1, wanted.path)))
            .unwrap_or_else(|| panic!("{}{} is missing", self.1, wanted.path));
        assert_eq!(data.shape().to_vec(), wanted.stored, "{}", wanted.path);
        let values = data.clone().convert_dtype(dtype);
        if !wanted.transposed {
            return values;
        }
        Tensor::<2>::from_data(values, (&Device::default(), dtype))
            .transpose()
            .to_data()
    }
}

fn model(config: &Value, tensors: &Tensors, prefix: String, device: &Device) -> Pretrained {
    let config = Config::new(config).unwrap();
    let mut source = Stored(tensors, prefix);
    config.build(&mut Builder::new(&mut source, device, DType::F32, 0.0))
}

fn integers(data: &TensorData, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(data.clone(), device)
}

/// The batch of a case.
fn text(tensors: &Tensors, padding: &Value, device: &Device) -> Text {
    let padding = padding.as_str().unwrap_or("None");
    let read = |name: &str| integers(&tensors[&format!("{name}.{padding}")], device);
    match padding {
        "None" => Text::new(read("ids")),
        _ => Text::new(read("ids")).with_mask(read("mask")),
    }
}

fn values(data: &TensorData) -> Vec<f64> {
    data.clone().convert::<f64>().try_to_vec().unwrap()
}

/// The numbers of what the model computes.
fn computed(output: Output) -> Vec<f64> {
    match output.logits {
        Some(Logits::Tokens(logits)) => bridge::values(&logits),
        Some(Logits::Sequence(logits)) => bridge::values(&logits),
        None => bridge::values(&output.hidden),
    }
}

#[test]
fn outputs_are_those_of_transformers() {
    let (cases, tensors) = fixture();
    let device = Device::default();
    assert_eq!(cases.len(), 28);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let prefix = format!("weights.{}.", case["weights"].as_str().unwrap());
        let model = model(&case["config"], &tensors, prefix, &device);
        let text = text(&tensors, &case["padding"], &device);
        let found = computed(model.forward(&text, &Ctx::default()).unwrap());
        close(
            name,
            &found,
            &values(&tensors[&format!("{name}.out")]),
            1e-5,
        );
        agrees_with_its_shapes(model);
    }
}

fn golden(name: &str) -> PathBuf {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engraft-peft/vectors");
    vectors.join("models").join(name)
}

#[test]
fn golden_models_have_their_outputs_loaded_and_saved() {
    let device = Device::default();
    let options = LoadOptions::new(&device, DType::F32);
    for (name, atol) in [("llama", 2.8e-5), ("gpt2", 1.4e-5)] {
        let (io, _) = read_tensors(&golden(name).join("io.safetensors")).unwrap();
        let text = Text::new(integers(&io["in.input_ids"], &device))
            .with_mask(integers(&io["in.attention_mask"], &device));
        let model = load(&golden(name), &options).unwrap();
        assert_eq!(*model.report(), LoadReport::default());
        let copy = tempfile::tempdir().unwrap();
        model.save(copy.path()).unwrap();
        for model in [model, load(copy.path(), &options).unwrap()] {
            let found = computed(model.forward(&text, &Ctx::default()).unwrap());
            for (found, expected) in found.iter().zip(values(&io["out.logits"])) {
                assert!(
                    (found - expected).abs() <= atol + 1e-5 * expected.abs(),
                    "{name}: {found} instead of {expected}"
                );
            }
            agrees_with_its_shapes(model);
        }
        let tensors = |directory: &Path| {
            read_tensors(&directory.join("model.safetensors"))
                .unwrap()
                .0
        };
        assert_eq!(tensors(copy.path()), tensors(&golden(name)), "{name}");
    }
}

#[test]
fn old_files_of_gpt2_are_read() {
    let options = LoadOptions::new(&Device::default(), DType::F32);
    let (tensors, _) = read_tensors(&golden("gpt2").join("model.safetensors")).unwrap();
    let bare = |name: &String| name.replace("transformer.", "");
    let mut old: Tensors = tensors
        .iter()
        .map(|(name, data)| (bare(name), data.clone()))
        .collect();
    let causal = TensorData::ones::<u8, _>([1, 1, 64, 64]);
    old.insert("h.0.attn.bias".to_owned(), causal);
    old.insert(
        "h.0.attn.masked_bias".to_owned(),
        TensorData::zeros::<f32, _>([1]),
    );
    old.insert(
        "lm_head.weight".to_owned(),
        tensors["transformer.wte.weight"].clone(),
    );
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write_tensors(&path("model.safetensors"), &old, HashMap::new()).unwrap();
    std::fs::copy(golden("gpt2").join("config.json"), path("config.json")).unwrap();
    let all = |model: &Pretrained| params::read(model, |_| true);
    let model = load(directory.path(), &options).unwrap();
    assert_eq!(all(&model), all(&load(&golden("gpt2"), &options).unwrap()));

    let task = options.with_task(Task::Classification(4), Key::new(1));
    let model = load(directory.path(), &task).unwrap();
    assert_eq!(model.report().fresh, ["score.weight"]);
    agrees_with_its_shapes(model);
}

/// The case of that name, as a model, its text and the file's tensors.
fn case(name: &str) -> (Pretrained, Text, Tensors) {
    let (cases, tensors) = fixture();
    let case = cases.iter().find(|case| case["name"] == name).unwrap();
    let prefix = format!("weights.{}.", case["weights"].as_str().unwrap());
    let device = Device::default();
    let model = model(&case["config"], &tensors, prefix, &device);
    (model, text(&tensors, &case["padding"], &device), tensors)
}

#[test]
fn generated_tokens_are_those_of_transformers() {
    for name in ["llama_left", "mistral_left", "gpt2_left"] {
        let (model, text, tensors) = case(name);
        for (kind, repetition_penalty) in [("greedy", 1.0), ("penalty", 1.8)] {
            let generation = Generation {
                max_new_tokens: 8,
                sampling: Sampling {
                    repetition_penalty,
                    ..Sampling::default()
                },
                ..Generation::default()
            };
            let model = model.causal_lm().unwrap();
            let found = generate(model, &text, &generation, &Ctx::default()).unwrap();
            let expected = values(&tensors[&format!("{name}.{kind}")]);
            let found: Vec<f64> = found.concat().iter().map(|token| *token as f64).collect();
            assert_eq!(found, expected, "{name}, {kind}");
        }
    }
}

/// Keys and values in front, [tokens, key heads * head width] each.
#[derive(Module, Debug)]
struct Prefix {
    keys: Tensor<2>,
    values: Tensor<2>,
}

impl SiteAdapter for Prefix {
    fn extend_key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        _: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, _, width] = keys.dims();
        let extended = |own: &Tensor<2>, x: Tensor<4>| {
            let tokens = own.dims()[0];
            let own = own.clone().reshape([1, tokens, heads, width]);
            let own = own.swap_dims(1, 2).expand([batch, heads, tokens, width]);
            Tensor::cat(vec![own, x], 2)
        };
        (extended(&self.keys, keys), extended(&self.values, values))
    }

    fn positions(&self) -> usize {
        self.keys.dims()[0]
    }
}

#[test]
fn trained_keys_take_positions_and_leave_windows_as_in_peft() {
    for name in ["mistral_left", "gpt2_left"] {
        let (mut model, text, tensors) = case(name);
        let prefix = tensors[&format!("{name}.prefix")].clone();
        let prefix = Tensor::<2>::from_data(prefix, &Device::default());
        let width = prefix.dims()[1] / 4;
        let mut at = 0;
        model.slots(&mut Slots::new(&mut |path, slot| {
            if let (Slot::Site(site), true) = (slot, path.ends_with("key_value")) {
                let part = |part: usize| prefix.clone().narrow(1, part * width, width);
                let (keys, values) = (part(2 * at), part(2 * at + 1));
                at += 1;
                let adapter = AnySite::new(Prefix { keys, values });
                site.attach(path, "prefix", adapter).unwrap();
            }
        }));
        let found = computed(model.forward(&text, &Ctx::default()).unwrap());
        close(
            name,
            &found,
            &values(&tensors[&format!("{name}.prefixed")]),
            1e-5,
        );
    }
}
