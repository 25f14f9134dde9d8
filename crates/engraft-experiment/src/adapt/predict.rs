//! Predictions with an adapter.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, activation};
use engraft_core::{Adapted, Mode};
use engraft_data::task::{Output, Prepared};
use engraft_data::tokens::Side;
use engraft_data::{ImageFolder, ImageOptions, Task, TextOptions, TextSet, Tokens, read};
use engraft_kernels::Quantisation;
use engraft_models::{Generation, Logits, Pretrained, generate};
use engraft_tensor::bridge;
use serde::Serialize;

use super::adapters;
use super::card::Card;
use super::examples::{Inputs, logits, text};
use super::subject::{Reader, device, head, input, subject};
use crate::{Error, Result};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Requests {
    /// Directory of the model.
    pub model: PathBuf,
    /// Directory of the adapter.
    pub adapter: PathBuf,
    /// File of text, an image, or a directory of images.
    pub input: PathBuf,
    /// The task, for an adapter without a card.
    pub task: Option<Task>,
    /// Requests at once.
    pub batch_size: usize,
    /// How text is continued.
    pub generation: Generation,
    /// Device.
    pub device: String,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Its line in the file; the image's number in a directory.
    pub line: u64,
    /// The class, or the classes of the tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The probability of the class, or of each class where there may be several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<f64>,
    /// The number of a regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The text that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The outputs of an adapter's head.
pub(super) fn outputs(card: &Card) -> usize {
    match card.output {
        Output::Number => 1,
        _ => card.labels.len(),
    }
}

/// Answers every request, in order, as they are computed.
///
/// # Errors
/// A model, an adapter or a file that cannot be read, an adapter for another model, what `answer`
/// returns.
pub fn predict(
    requests: &Requests,
    mut answer: impl FnMut(Prediction) -> Result<()>,
) -> Result<()> {
    let device = device(&requests.device)?;
    let card = Card::read(&requests.adapter)?;
    let reader = Reader::of(&requests.model)?;
    let task = card.as_ref().and_then(|card| card.task.clone());
    let task = requests.task.clone().or(task);
    match reader {
        Reader::Text(mut tokens) => {
            let task = task.ok_or_else(|| {
                Error::Input(format!(
                    "{} does not say what it was trained for: give --task",
                    requests.adapter.display()
                ))
            })?;
            let source = read::open(&requests.input).map_err(input)?;
            let prepared = task.prepare_requests(&*source, &tokens).map_err(input)?;
            if prepared.output == Output::NextToken {
                // What is continued ends at its last token.
                tokens.padding = Side::Left;
            }
            let options = TextOptions {
                max_length: card.as_ref().map_or(128, |card| card.max_length),
                ..TextOptions::default()
            };
            let set = TextSet::requests(&*source, &prepared, &tokens, &options).map_err(input)?;
            let head = head(prepared.output, prepared.outputs());
            let base = card.as_ref().and_then(|card| card.base);
            let model = adapted(requests, Some(head), base, &device)?;
            let all: Vec<usize> = (0..set.len()).collect();
            for rows in all.chunks(requests.batch_size.max(1)) {
                let batch = set.batch(rows, 0, 0).map_err(input)?;
                let inputs = Inputs::Text(text(&batch, &device));
                let found = if prepared.output == Output::NextToken {
                    continued(&model, &inputs, &tokens, requests)?
                } else {
                    let logits = logits(&model.model, &inputs, &model.ctx(Mode::Eval))?;
                    classified(&prepared, logits, &batch.mask, batch.tokens)
                };
                for (line, found) in batch.lines.iter().zip(found) {
                    answer(Prediction {
                        line: *line,
                        ..found
                    })?;
                }
            }
            Ok(())
        }
        Reader::Images(options) => images(requests, card.as_ref(), &options, &device, answer),
    }
}

/// The model with the adapter, for predictions.
fn adapted(
    requests: &Requests,
    head: Option<engraft_models::Task>,
    base: Option<Quantisation>,
    device: &Device,
) -> Result<Adapted<Pretrained>> {
    let mut adapted = subject(&requests.model, head, base, device, 0)?;
    for warning in adapters::load(&mut adapted, &requests.adapter)? {
        eprintln!("warning: {warning}");
    }
    Ok(adapted)
}

const NOTHING: Prediction = Prediction {
    line: 0,
    labels: Vec::new(),
    scores: Vec::new(),
    value: None,
    text: None,
};

/// What the logits of a batch say.
fn classified(task: &Prepared, logits: Logits, mask: &[i64], tokens: usize) -> Vec<Prediction> {
    let names = task.labels.names();
    match (task.output, logits) {
        (Output::Number, Logits::Sequence(logits)) => {
            let values = bridge::values(&logits).into_iter();
            values
                .map(|value| Prediction {
                    value: Some(value),
                    ..NOTHING
                })
                .collect()
        }
        (Output::Classes, Logits::Sequence(logits)) => {
            let width = logits.dims()[1];
            let scores = bridge::values(&activation::sigmoid(logits));
            let answer = |scores: &[f64]| Prediction {
                labels: names
                    .iter()
                    .zip(scores)
                    .filter(|(_, score)| **score > 0.5)
                    .map(|(name, _)| name.clone())
                    .collect(),
                scores: scores.to_vec(),
                ..NOTHING
            };
            scores.chunks(width).map(answer).collect()
        }
        (_, Logits::Sequence(logits)) => one_class(names, logits),
        (_, Logits::Tokens(logits)) => {
            let width = logits.dims()[2];
            let scores = bridge::values(&logits);
            let best = |scores: &[f64]| -> String {
                let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                let best = best.map_or(0, |(at, _)| at);
                names.get(best).cloned().unwrap_or_else(|| best.to_string())
            };
            let rows = scores.chunks(width * tokens).zip(mask.chunks(tokens));
            rows.map(|(scores, mask)| Prediction {
                labels: scores
                    .chunks(width)
                    .zip(mask)
                    .filter(|(_, present)| **present == 1)
                    .map(|(scores, _)| best(scores))
                    .collect(),
                ..NOTHING
            })
            .collect()
        }
    }
}

/// The most likely class of each row.
fn one_class(names: &[String], logits: burn::tensor::Tensor<2>) -> Vec<Prediction> {
    let width = logits.dims()[1];
    let scores = bridge::values(&activation::softmax(logits, 1));
    let answer = |scores: &[f64]| {
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (at, score) = best.map_or((0, 0.0), |(at, score)| (at, *score));
        Prediction {
            labels: vec![names.get(at).cloned().unwrap_or_else(|| at.to_string())],
            scores: vec![score],
            ..NOTHING
        }
    };
    scores.chunks(width).map(answer).collect()
}

/// The texts that follow.
fn continued(
    model: &Adapted<Pretrained>,
    inputs: &Inputs,
    tokens: &Tokens,
    requests: &Requests,
) -> Result<Vec<Prediction>> {
    let Inputs::Text(prompt) = inputs else {
        return Err(Error::Run("images have no continuation".to_owned()));
    };
    let mut generation = requests.generation.clone();
    if let (true, Some(end)) = (generation.stop.is_empty(), tokens.special.eos) {
        generation.stop = vec![end.into()];
    }
    let decoder = model.model.causal_lm().map_err(input)?;
    let texts = generate(decoder, prompt, &generation, &model.ctx(Mode::Eval));
    let texts = texts.map_err(|error| Error::Run(error.to_string()))?;
    let answer = |ids: Vec<i64>| {
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        Ok(Prediction {
            text: Some(tokens.decode(&ids).map_err(input)?),
            ..NOTHING
        })
    };
    texts.into_iter().map(answer).collect()
}

/// The classes of images.
fn images(
    requests: &Requests,
    card: Option<&Card>,
    options: &ImageOptions,
    device: &Device,
    mut answer: impl FnMut(Prediction) -> Result<()>,
) -> Result<()> {
    let names = card.map_or(&[][..], |card| &card.labels);
    let task = match card {
        Some(card) => Some(head(card.output, outputs(card))),
        None => adapters::head(&requests.adapter)?,
    };
    let base = card.and_then(|card| card.base);
    let model = adapted(requests, task, base, device)?;
    let files = pictures(&requests.input)?;
    let shape = [options.mean.len(), options.height, options.width];
    for (chunk, files) in files.chunks(requests.batch_size.max(1)).enumerate() {
        let mut pixels = Vec::new();
        for file in files {
            pixels.extend(ImageFolder::pixels(file, options).map_err(input)?);
        }
        let [channels, height, width] = shape;
        let pixels = burn::tensor::TensorData::new(pixels, [files.len(), channels, height, width]);
        let inputs = Inputs::Pixels(burn::tensor::Tensor::from_data(pixels, device));
        let logits = logits(&model.model, &inputs, &model.ctx(Mode::Eval))?;
        let Logits::Sequence(logits) = logits else {
            return Err(Error::Run("the model does not classify images".to_owned()));
        };
        let first = chunk * requests.batch_size.max(1) + 1;
        for (at, found) in one_class(names, logits).into_iter().enumerate() {
            answer(Prediction {
                line: (first + at) as u64,
                ..found
            })?;
        }
    }
    Ok(())
}

/// The images at a path, in alphabetical order.
fn pictures(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| Error::io("read", path, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let found = entry
            .map_err(|error| Error::io("read", path, &error))?
            .path();
        let ending = found.extension().and_then(|ending| ending.to_str());
        if ending
            .is_some_and(|ending| ["png", "jpg", "jpeg"].contains(&ending.to_lowercase().as_str()))
        {
            files.push(found);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(Error::Input(format!(
            "{}: found no .png or .jpeg",
            path.display()
        ))),
        false => Ok(files),
    }
}
