//! The model that is adapted, with what turns data into its inputs.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::{Adapted, Mode, Text};
use engraft_data::{ImageOptions, TextOptions, Tokens, task::Output};
use engraft_kernels::Quantisation;
use engraft_models::{LoadOptions, Pretrained, Task, load, shapes};
use engraft_tensor::Key;
use serde_json::Value;

use crate::{Error, Result};

/// What a model reads.
#[derive(Debug, Clone)]
pub enum Reader {
    /// Text, through its tokenizer.
    Text(Box<Tokens>),
    /// Images, resized and normalised.
    Images(ImageOptions),
}

/// Any other error as one of the input.
pub(super) fn input(error: impl std::fmt::Display) -> Error {
    Error::Input(error.to_string())
}

/// The directory of a model that is named by it, or by its id on the Hugging Face hub.
pub(super) fn located(model: &Path) -> Result<PathBuf> {
    match model.to_str() {
        Some(name) => engraft_models::locate(name).map_err(input),
        None => Ok(model.to_owned()),
    }
}

/// What Python calls a model: its directory or id, and the revision if that is named.
pub(super) fn named(model: &str) -> (&str, Option<&str>) {
    match model.split_once('@') {
        Some((id, revision)) if !Path::new(model).is_dir() => (id, Some(revision)),
        _ => (model, None),
    }
}

/// The `config.json` of a model's directory.
pub(super) fn config(directory: &Path) -> Result<Value> {
    let path = directory.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Input(format!("{}: malformed: {error}", path.display())))
}

impl Reader {
    /// What the model of a directory reads.
    pub fn of(directory: &Path) -> Result<Self> {
        let config = config(directory)?;
        if config["model_type"] == "vit" {
            return ImageOptions::load(directory)
                .map(Self::Images)
                .map_err(input);
        }
        let tokens = Tokens::load(directory).map_err(input)?;
        let vocabulary = config["vocab_size"].as_u64().unwrap_or(u64::MAX);
        tokens
            .check_vocabulary(usize::try_from(vocabulary).unwrap_or(usize::MAX))
            .map_err(input)?;
        Ok(Self::Text(Box::new(tokens)))
    }
}

/// Most tokens of a text where nothing else is asked for: those of [`TextOptions`], as far as the
/// tokenizer and the positions of the model of a directory go.
pub(super) fn usual_length(directory: &Path, tokens: &Tokens) -> Result<usize> {
    let positions = shapes::positions(&config(directory)?);
    let limits = [tokens.max_length, positions].into_iter().flatten();
    Ok(limits.fold(TextOptions::default().max_length, usize::min))
}

/// The head that an output needs.
pub(super) fn head(output: Output, outputs: usize) -> Task {
    match output {
        Output::Class | Output::Classes | Output::Number => Task::Classification(outputs),
        Output::TokenClass => Task::Tokens(outputs),
        Output::NextToken => Task::Language,
        Output::MaskedToken => Task::MaskedLanguage,
    }
}

/// A device without autodiff, by name.
pub(super) fn device(name: &str) -> Result<Device> {
    engraft_tensor::device(name).map_err(input)
}

/// Values of `model_type` whose models read in both directions, or images.
const ENCODERS: [&str; 4] = ["bert", "roberta", "vit", "xlm-roberta"];

/// The model of a directory with this head, in f32 or with weights of few bits, nothing attached.
pub(super) fn subject(
    directory: &Path,
    head: Option<Task>,
    base: Option<Quantisation>,
    device: &Device,
    seed: u64,
) -> Result<Adapted<Pretrained>> {
    let model_type = &config(directory)?["model_type"];
    if head == Some(Task::Language) && ENCODERS.iter().any(|known| model_type == known) {
        return Err(Error::Input(format!(
            "found text to be continued or answered, and a model of type {model_type}, which does not \
             predict the next token: expected a decoder (GPT-2, Llama), or another task"
        )));
    }
    let options = LoadOptions::new(device, DType::F32).with_quantisation(base);
    let options = match head {
        Some(task) => options.with_task(task, Key::new(seed).child("head")),
        None => options,
    };
    load(directory, &options).map(Adapted::new).map_err(input)
}

/// Checks that the model has positions for texts of `tokens` tokens.
pub(super) fn check_length(
    model: &Adapted<Pretrained>,
    tokens: usize,
    device: &Device,
) -> Result<()> {
    let ids = TensorData::new(vec![0i64; tokens], [1, tokens]);
    let text = Text::new(Tensor::<2, Int>::from_data(ids, device));
    let read = model.model.forward(&text, &model.ctx(Mode::Eval));
    read.map(drop)
        .map_err(|error| Error::Input(format!("max-length {tokens}: {error}")))
}
