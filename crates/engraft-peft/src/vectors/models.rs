//! Cases on models of transformers: the model alone, or with an adapter from its files.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::{Adaptable, Adapted, Ctx, Mode, Text, file};
use engraft_models::{LoadOptions, Logits, Output, Pretrained, load};
use serde::Deserialize;

use super::case::{Entry, ONLY, Tolerance, json, within};
use super::checks::Checks;
use super::layers::{gradients, round_trip};
use super::report::CaseReport;
use super::{Registry, Stop};
use crate::adapter::PeftAdapter;
use crate::error::Error;
use crate::types;

/// The kind of a model without adapters.
pub(super) const BASE: &str = "model";
/// The kind of a model with one.
pub(super) const ADAPTER: &str = "model_adapter";

type Tensors = BTreeMap<String, TensorData>;

#[derive(Debug, Deserialize)]
struct Expected {
    tolerance: BTreeMap<String, Tolerance>,
}

fn fail(error: impl ToString) -> Stop {
    Stop::Fail(error.to_string())
}

fn read(path: &Path) -> Result<Tensors, Stop> {
    Ok(file::read_tensors(path).map_err(fail)?.0)
}

fn model(directory: &Path, entry: &Entry, device: &Device) -> Result<Pretrained, Stop> {
    let options = LoadOptions::new(device, DType::F32);
    load(&directory.join(&entry.model_dir), &options).map_err(fail)
}

/// The outputs of the model.
pub(super) fn base(
    directory: &Path,
    entry: &Entry,
    device: &Device,
    report: &mut CaseReport,
) -> Result<(), Stop> {
    let tensors = read(&directory.join(&entry.tensors_file))?;
    let model = model(directory, entry, device)?;
    let output = Input::new(&tensors, device)?.through(&model, &Ctx::default())?;
    let mut checks = Checks::of(&tensors, &entry.tolerance);
    for (key, found) in named(&output, &tensors)? {
        checks.close(&key, &found.to_data());
    }
    checks.finish(report)
}

/// Outputs, loss and gradients with the adapter, the output with it turned off and merged, and the
/// adapter written and read again.
pub(super) fn adapter(
    directory: &Path,
    entry: &Entry,
    device: &Device,
    registry: Registry,
    report: &mut CaseReport,
) -> Result<(), Stop> {
    let adapter = PeftAdapter::read(&directory.join(&entry.adapter_dir))?;
    types::known(adapter.config().peft_type())?;
    let expected: Expected = json(&directory.join(&entry.json_file))?;
    let mut tensors = read(&directory.join(&entry.model_dir).join("io.safetensors"))?;
    // Base outputs are the model's own case.
    tensors.retain(|key, _| key.starts_with("in."));
    tensors.extend(read(&directory.join(&entry.tensors_file))?);
    let input = Input::new(&tensors, device)?;

    let fresh = Adapted::new(adapter.prepare(model(directory, entry, device)?)?);
    let mut adapted = fresh.clone();
    let import = adapter.import(&adapted.model.shapes(), ONLY)?;
    report.engraft = Some(import.method.clone());
    report.warnings = import.warnings.clone();
    import.attach(&mut adapted, registry)?;

    let mut checks = Checks::of(&tensors, &expected.tolerance);
    let case = ModelCase {
        input: &input,
        tensors: &tensors,
    };
    case.outputs(&adapted, &mut checks)?;
    case.disabled(&mut adapted, &fresh, &mut checks)?;
    case.merged(&mut adapted, registry, &import, &mut checks)?;
    let in_out = matches!(adapted.model, Pretrained::Gpt2(_));
    let models = (&adapted, &mut fresh.clone());
    round_trip(models, (&import, &adapter), in_out, registry, &mut checks);

    // What was trained, where the file holds what became of it.
    let trained = within(&tensors, "param.");
    let (import, adapted) = if trained.is_empty() {
        (import, adapted)
    } else {
        let import = adapter
            .with_frozen(trained)
            .import(&fresh.model.shapes(), ONLY)?;
        let mut adapted = fresh;
        import.attach(&mut adapted, registry)?;
        case.outputs(&adapted, &mut checks)?;
        (import, adapted)
    };
    case.gradients(&adapted, &import, &mut checks)?;
    checks.finish(report)
}

/// What goes into a model.
enum Input {
    Text(Box<Text>),
    Image(Box<Tensor<4>>),
}

impl Input {
    fn new(tensors: &Tensors, device: &Device) -> Result<Self, Stop> {
        if let Some(pixels) = tensors.get("in.pixel_values") {
            let pixels = pixels.clone().convert_dtype(DType::F32);
            return Ok(Self::Image(Box::new(Tensor::from_data(
                pixels,
                (device, DType::F32),
            ))));
        }
        let ints = |key: &str| {
            let data = tensors.get(key)?.clone().convert_dtype(DType::I64);
            Some(Tensor::<2, Int>::from_data(data, device))
        };
        let ids = ints("in.input_ids").ok_or_else(|| fail("in.input_ids is missing"))?;
        let tasks = tensors.get("in.task_ids").map(|data| {
            let data = data.clone().convert_dtype(DType::I64);
            Tensor::<1, Int>::from_data(data, device)
        });
        Ok(Self::Text(Box::new(Text {
            ids,
            mask: ints("in.attention_mask"),
            segments: ints("in.token_type_ids"),
            tasks,
            prompt: None,
        })))
    }

    fn through(&self, model: &Pretrained, ctx: &Ctx) -> Result<Output, Stop> {
        match self {
            Self::Text(text) => model.forward(text, ctx),
            Self::Image(pixels) => model.forward_image((**pixels).clone(), ctx),
        }
        .map_err(fail)
    }
}

/// The outputs that the case has, flattened: of virtual tokens it holds more than the model returns.
fn named(output: &Output, tensors: &Tensors) -> Result<Vec<(String, Tensor<1>)>, Stop> {
    let mut found = Vec::new();
    let mut add = |key: &str, value: Tensor<1>| {
        if tensors.contains_key(key) {
            found.push((key.to_owned(), value));
        }
    };
    add("out.last_hidden_state", output.hidden.clone().flatten(0, 2));
    if let Some(pooled) = &output.pooled {
        add("out.pooler_output", pooled.clone().flatten(0, 1));
    }
    match &output.logits {
        Some(Logits::Sequence(logits)) => add("out.logits", logits.clone().flatten(0, 1)),
        Some(Logits::Tokens(logits)) => add("out.logits", logits.clone().flatten(0, 2)),
        None => {}
    }
    match found.is_empty() {
        true => Err(fail("the model returns nothing that the case has")),
        false => Ok(found),
    }
}

/// The rows that belong to the text's own tokens: the last ones of each sequence.
fn own_tokens(expected: &TensorData, found: &Tensor<1>) -> Option<TensorData> {
    let shape = expected.shape().to_vec();
    let [batch, tokens, width] = shape[..] else {
        return None;
    };
    let own = found.dims()[0] / (batch * width).max(1);
    if own >= tokens {
        return None;
    }
    let size = expected.dtype().size() * width;
    let rows = expected.as_bytes().chunks(tokens * size);
    let bytes = rows.flat_map(|row| row[(tokens - own) * size..].to_vec());
    Some(TensorData::from_bytes_vec(
        bytes.collect(),
        vec![batch, own, width],
        expected.dtype(),
    ))
}

struct ModelCase<'a> {
    input: &'a Input,
    tensors: &'a Tensors,
}

impl ModelCase<'_> {
    fn run(&self, adapted: &Adapted<Pretrained>) -> Result<Output, Stop> {
        self.input.through(&adapted.model, &adapted.ctx(Mode::Eval))
    }

    fn outputs(&self, adapted: &Adapted<Pretrained>, checks: &mut Checks) -> Result<(), Stop> {
        for (key, found) in named(&self.run(adapted)?, self.tensors)? {
            let own = own_tokens(&self.tensors[&key], &found);
            match own {
                Some(own) => checks.close_to(&key, &found.to_data(), &own),
                None => checks.close(&key, &found.to_data()),
            }
        }
        Ok(())
    }

    /// Turned off, the model computes what it computed before anything was attached, bit by bit.
    fn disabled(
        &self,
        adapted: &mut Adapted<Pretrained>,
        fresh: &Adapted<Pretrained>,
        checks: &mut Checks,
    ) -> Result<(), Stop> {
        let before = self.run(fresh)?;
        adapted.disable(true);
        let output = self.run(adapted)?;
        adapted.disable(false);
        checks.equal(
            "hidden states while disabled",
            Some(&output.hidden.to_data()),
            &before.hidden.to_data(),
        );
        if let (Some(Logits::Tokens(logits)), true) =
            (&output.logits, self.tensors.contains_key("out.base_logits"))
        {
            // Stated without a tolerance of its own.
            checks.as_close_as("out.logits", "out.base_logits", &logits.to_data());
        }
        Ok(())
    }

    /// Merged, it computes the same as active, where the method merges.
    fn merged(
        &self,
        adapted: &mut Adapted<Pretrained>,
        registry: Registry,
        import: &crate::Import,
        checks: &mut Checks,
    ) -> Result<(), Stop> {
        let method = registry(&import.method, &import.config).map_err(Error::from)?;
        if !method.meta().mergeable {
            return Ok(());
        }
        adapted
            .merge()
            .map_err(|error| fail(format!("merging: {error}")))?;
        self.outputs(adapted, checks)?;
        adapted.unmerge();
        Ok(())
    }

    /// The mean cross entropy of the next token for causal language models, else sum(out . g).
    fn loss(&self, model: &Pretrained, output: &Output) -> Result<Tensor<1>, Stop> {
        let architecture = &model.config_json()["architectures"][0];
        let architecture = architecture.as_str().unwrap_or_default();
        let causal = ["ForCausalLM", "LMHeadModel"];
        let is_causal = causal.iter().any(|end| architecture.ends_with(end));
        if let (true, Some(Logits::Tokens(logits)), Input::Text(text)) =
            (is_causal, &output.logits, self.input)
        {
            let [batch, tokens, vocabulary] = logits.dims();
            let rows = batch * (tokens - 1);
            let logits = logits.clone().narrow(1, 0, tokens - 1);
            let labels = text.ids.clone().narrow(1, 1, tokens - 1);
            let log = log_softmax(logits.reshape([rows, vocabulary]), 1);
            return Ok(log.gather(1, labels.reshape([rows, 1])).mean().neg());
        }
        let out: Tensor<1> = match &output.logits {
            Some(Logits::Sequence(logits)) => logits.clone().flatten(0, 1),
            Some(Logits::Tokens(logits)) => logits.clone().flatten(0, 2),
            None => output.hidden.clone().flatten(0, 2),
        };
        let g = self
            .tensors
            .get("in.g")
            .ok_or_else(|| fail("in.g is missing"))?;
        let g = g.clone().convert_dtype(DType::F32);
        let count = g.num_elements();
        let g = TensorData::from_bytes_vec(g.as_bytes().to_vec(), vec![count], DType::F32);
        Ok((out.clone() * Tensor::from_data(g, (&out.device(), DType::F32))).sum())
    }

    fn gradients(
        &self,
        adapted: &Adapted<Pretrained>,
        import: &crate::Import,
        checks: &mut Checks,
    ) -> Result<(), Stop> {
        let loss = self.loss(&adapted.model, &self.run(adapted)?)?;
        checks.close("loss", &loss.to_data());
        let found = import.to_peft(&gradients(adapted, &loss.backward()))?;
        for key in within(self.tensors, "grad.").keys() {
            match found.get(key) {
                Some(found) => checks.close(&format!("grad.{key}"), found),
                None => checks.fail(format!(
                    "grad.{key}: no parameter of the adapter has this gradient"
                )),
            }
        }
        Ok(())
    }
}
