//! Writes adapters on the small models of the golden vectors, with inputs and outputs, for
//! `interop/check_peft_models.py`, which loads them in PEFT and compares:
//!
//! `cargo run -p engraft-peft --example interop_models -- DIRECTORY`

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::path::Path;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::{Adapted, Injection, Mode, Targets, Text, file};
use engraft_models::{LoadOptions, Logits, Pretrained, load};
use engraft_testkit::random;
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

/// What is written.
struct Case {
    /// Directory of the model.
    model: &'static str,
    method: &'static str,
    config: Value,
    /// Names of the adapted layers; empty is the method's default.
    layers: &'static [&'static str],
    /// Parameters of the model that are trained along.
    along: &'static [&'static str],
    /// Whether the output layer gets a weight of its own.
    untied: bool,
    /// Blocks that are repeated.
    repeated: &'static [[usize; 2]],
    /// The numbers of the case among those of its model and method.
    label: &'static str,
}

fn case(model: &'static str, method: &'static str, config: Value) -> Case {
    Case {
        model,
        method,
        config,
        layers: &[],
        along: &[],
        untied: false,
        repeated: &[],
        label: "",
    }
}

/// Models, the names of the attention's and of all layers of their blocks, and what PEFT calls the
/// task, without which it puts no virtual tokens in front.
const MODELS: [(&str, &[&str], &[&str], &str); 6] = [
    (
        "bert",
        &["query", "value"],
        &["query", "key", "value", "dense"],
        "FEATURE_EXTRACTION",
    ),
    (
        "bert_cls",
        &["query", "value"],
        &["query", "key", "value"],
        "SEQ_CLS",
    ),
    (
        "roberta",
        &["query", "value"],
        &["query", "key", "value", "dense"],
        "FEATURE_EXTRACTION",
    ),
    (
        "llama",
        &["q_proj", "v_proj"],
        &["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"],
        "CAUSAL_LM",
    ),
    ("gpt2", &["c_attn"], &["c_attn", "c_fc"], "CAUSAL_LM"),
    ("vit", &["q_proj", "v_proj"], &["q_proj", "fc1"], ""),
];

fn cases() -> Vec<Case> {
    let lora = || json!({"rank": 4, "alpha": 8.0});
    // What PEFT trains: whole blocks and a scale of the outputs.
    let boft = |factors: usize| {
        json!({
            "blocks": {"size": 4},
            "factors": factors,
            "parametrisation": "full",
            "outputs": "scale",
        })
    };
    let mut cases = Vec::new();
    for (model, attention, all, task) in MODELS {
        // PEFT has some for `Linear` only.
        let linear = model != "gpt2";
        for (method, config, layers) in [
            ("lora", lora(), all),
            ("dora", lora(), attention),
            ("boft", boft(1), attention),
            (
                "oft",
                json!({"blocks": {"size": 4}, "outputs": "fixed"}),
                attention,
            ),
            ("ia3", json!({}), &[]),
            ("vera", json!({"rank": 8}), attention),
            ("loha", lora(), attention),
            ("lokr", lora(), attention),
            ("hra", json!({}), attention),
            ("road", json!({}), attention),
            ("shira", json!({"rank": 8}), attention),
            ("fourierft", json!({"n-frequency": 200}), attention),
        ] {
            if linear || ["lora", "dora", "ia3", "vera", "fourierft"].contains(&method) {
                cases.push(Case {
                    layers,
                    ..case(model, method, config)
                });
            }
        }
        if task.is_empty() {
            continue;
        }
        for (method, config) in [
            ("prefix-tuning", json!({"virtual-tokens": 3})),
            ("prompt-tuning", json!({"virtual-tokens": 3})),
            ("p-tuning", json!({"virtual-tokens": 3})),
            ("multitask-prompt-tuning", json!({"virtual-tokens": 3})),
        ] {
            // PEFT has the last one for models with a task only.
            if task != "FEATURE_EXTRACTION" || method != "multitask-prompt-tuning" {
                cases.push(case(model, method, config));
            }
        }
    }
    // The model's own shape.
    let mirror = json!({"inner": 64, "heads": 4, "key-heads": 2, "head-width": 8});
    let tokens = json!({"tokens": [3, 5, 96]});
    for (model, method, config, layers) in [
        ("llama", "lora", lora(), &["embed_tokens", "lm_head"][..]),
        (
            "llama",
            "alora",
            json!({"rank": 4, "invocation": [7, 8]}),
            &["q_proj"],
        ),
        (
            "llama",
            "trainable-tokens",
            tokens.clone(),
            &["embed_tokens"],
        ),
        (
            "llama",
            "adaption-prompt",
            json!({"virtual-tokens": 3}),
            &[],
        ),
        (
            "llama",
            "shadow",
            json!({"rank": 4, "backbone": mirror}),
            &[],
        ),
        ("gpt2", "trainable-tokens", tokens, &["wte"]),
        // Its output layer shares the weight of its embedding.
        ("gpt2", "lora", lora(), &["lm_head"]),
        ("gpt2", "dora", lora(), &["lm_head"]),
        ("gpt2", "lora", lora(), &["wte", "c_attn", "lm_head"]),
        ("gpt2", "lora", json!({"rank": 4, "tied": true}), &["wte"]),
    ] {
        cases.push(Case {
            layers,
            label: "-embeddings",
            ..case(model, method, config)
        });
    }
    cases.push(Case {
        layers: &["c_attn"],
        along: &["lm_head.weight"],
        untied: true,
        label: "-head",
        ..case("gpt2", "lora", lora())
    });
    for (model, layers) in [
        ("bert", &["query"][..]),
        ("bert_cls", &["query"]),
        ("roberta", &["query"]),
        ("llama", &["q_proj"]),
    ] {
        cases.push(Case {
            layers,
            repeated: &[[0, 2], [0, 1], [1, 2]],
            label: "-repeated",
            ..case(model, "lora", lora())
        });
    }
    cases
}

fn main() -> Result<(), Error> {
    let directory = env::args()
        .nth(1)
        .ok_or("expected the directory to write to")?;
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/models");
    for (index, case) in cases().iter().enumerate() {
        let name = format!("{index:03}-{}-{}{}", case.model, case.method, case.label);
        match write(case, &models, &Path::new(&directory).join(&name)) {
            Ok(()) => println!("{name}"),
            Err(error) => println!("{name}: not written: {error}"),
        }
    }
    Ok(())
}

/// Writes an adapter with moved parameters, and what the model computes with it.
fn write(case: &Case, models: &Path, at: &Path) -> Result<(), Error> {
    let device = Device::default().autodiff();
    let source = models.join(case.model);
    let mut base = load(&source, &LoadOptions::new(&device, DType::F32))?;
    if case.untied {
        base = base.untied();
    }
    if !case.repeated.is_empty() {
        base = base.replicated(case.repeated)?;
    }
    let in_out = matches!(base, Pretrained::Gpt2(_));
    let mut adapted = Adapted::new(base);
    let mut injection = Injection::new(3);
    if !case.layers.is_empty() {
        injection = injection.targets(Targets::names(case.layers));
    }
    let along = case.along.iter().map(|path| (*path).to_owned());
    injection = injection.with_params(along.collect());
    injection.train_head = case.model == "bert_cls";
    let method = engraft::method(case.method, &case.config)?;
    adapted.attach("default", &method, &injection)?;
    let adapted = random::perturb_trained(adapted, 0.1, 2);
    let mut adapter = engraft_peft::export(&adapted, "default", in_out)?;
    let task = MODELS.iter().find(|(model, ..)| *model == case.model);
    if let Some((.., task)) = task
        && !task.is_empty()
    {
        adapter = adapter.for_task(task);
    }
    adapter.write(at)?;
    let (inputs, _) = file::read_tensors(&source.join("io.safetensors"))?;
    let output = output(&adapted, &inputs, &device)?;
    let tensors = BTreeMap::from([("y".to_owned(), output)]);
    let metadata = HashMap::from([("model".to_owned(), case.model.to_owned())]);
    Ok(file::write_tensors(
        &at.join("expected.safetensors"),
        &tensors,
        metadata,
    )?)
}

/// Logits, or hidden states where the model has no head.
fn output(
    adapted: &Adapted<Pretrained>,
    inputs: &BTreeMap<String, TensorData>,
    device: &Device,
) -> Result<TensorData, Error> {
    let ctx = adapted.ctx(Mode::Eval);
    let output = match inputs.get("in.pixel_values") {
        Some(pixels) => {
            let pixels = Tensor::from_data(pixels.clone(), (device, DType::F32));
            adapted.model.forward_image(pixels, &ctx)?
        }
        None => {
            let ints = |key: &str| Tensor::<2, Int>::from_data(inputs[key].clone(), device);
            let text = Text::new(ints("in.input_ids")).with_mask(ints("in.attention_mask"));
            adapted.model.forward(&text, &ctx)?
        }
    };
    Ok(match output.logits {
        Some(Logits::Tokens(logits)) => logits.to_data(),
        Some(Logits::Sequence(logits)) => logits.to_data(),
        None => output.hidden.to_data(),
    })
}
