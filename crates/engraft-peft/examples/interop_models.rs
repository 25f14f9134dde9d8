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

/// Model, method, its configuration, and the names of the adapted layers.
type Case = (&'static str, &'static str, Value, &'static [&'static str]);

fn cases() -> Vec<Case> {
    let lora = json!({"rank": 4, "alpha": 8.0});
    let tokens = json!({"tokens": [3, 5, 96]});
    vec![
        ("llama", "lora", lora.clone(), &["q_proj", "down_proj"]),
        ("llama", "lora", lora.clone(), &["embed_tokens", "lm_head"]),
        (
            "llama",
            "alora",
            json!({"rank": 4, "invocation": [7, 8]}),
            &["q_proj"],
        ),
        ("llama", "trainable-tokens", tokens, &["embed_tokens"]),
        ("bert", "ia3", json!({}), &["key", "value"]),
        ("gpt2", "lora", lora, &["c_attn"]),
        ("vit", "vera", json!({"rank": 8}), &["q_proj", "v_proj"]),
    ]
}

fn main() -> Result<(), Error> {
    let directory = env::args()
        .nth(1)
        .ok_or("expected the directory to write to")?;
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/models");
    for (index, (model, id, config, names)) in cases().into_iter().enumerate() {
        let device = Device::default().autodiff();
        let base = load(&models.join(model), &LoadOptions::new(&device, DType::F32))?;
        let in_out = matches!(base, Pretrained::Gpt2(_));
        let mut adapted = Adapted::new(base);
        let injection = Injection::new(3).targets(Targets::names(names));
        adapted.attach("default", &engraft::method(id, &config)?, &injection)?;
        let adapted = random::perturb_trained(adapted, 0.1, 2);
        let at = Path::new(&directory).join(format!("{index}-{model}-{id}"));
        engraft_peft::export(&adapted, "default", in_out)?.write(&at)?;
        let (inputs, _) = file::read_tensors(&models.join(model).join("io.safetensors"))?;
        let output = output(&adapted, &inputs, &device)?;
        let tensors = BTreeMap::from([("y".to_owned(), output)]);
        let metadata = HashMap::from([("model".to_owned(), model.to_owned())]);
        file::write_tensors(&at.join("expected.safetensors"), &tensors, metadata)?;
        println!("{}", at.display());
    }
    Ok(())
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
