//! Predictions with an adapter.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, activation};
use engraft_core::{Adapted, Mode};
use engraft_data::read::Source;
use engraft_data::task::{Output, Prepared};
use engraft_data::{Task, TextOptions, TextSet, Tokens};
use engraft_models::{Generation, Logits, Pretrained, Sampling};
use engraft_tensor::bridge;
use engraft_train::metrics::Predictions;
use serde::Serialize;

use super::adapters;
use super::card::Card;
use super::evaluate::{Scores, joined, predicted, predictions};
use super::examples::{Examples, Goal, Inputs, logits, text};
use super::generated::{Compared, continued, for_prompts};
use super::guess;
use super::pictures::classify;
use super::source::Place;
use super::subject::{Reader, device, head, input, located, subject, usual_length};
use crate::Result;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Requests {
    /// The model: its directory, or its id on the Hugging Face hub.
    pub model: PathBuf,
    /// Directory of the adapter.
    pub adapter: PathBuf,
    /// File of text, an image, or a directory of images or of classes of images.
    pub input: PathBuf,
    /// The task; what the adapter says if absent.
    pub task: Option<Task>,
    /// Requests at once.
    pub batch_size: usize,
    /// Most tokens that follow a prompt; as many as when the adapter was evaluated if absent.
    pub max_new_tokens: Option<usize>,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Device.
    pub device: String,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Its line in the file; the image's number in a directory.
    pub line: u64,
    /// The image, from the directory on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
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

/// Answers every request, in order, as they are computed. What was measured: the metrics of the
/// answers, where the file has those that are expected.
///
/// # Errors
/// A model, an adapter or a file that cannot be read, an adapter for another model, what `answer`
/// returns.
pub fn predict(
    requests: &Requests,
    answer: impl FnMut(Prediction) -> Result<()>,
) -> Result<Scores> {
    let device = device(&requests.device)?;
    let card = Card::read(&requests.adapter)?;
    let directory = located(&requests.model)?;
    let subject = (directory.as_path(), card.as_ref());
    match Reader::of(&directory)? {
        Reader::Text(tokens) => texts(requests, subject, &tokens, &device, answer),
        Reader::Images(options) => classify(requests, subject, &options, &device, answer),
    }
}

/// Answers to texts.
fn texts(
    requests: &Requests,
    (directory, card): (&Path, Option<&Card>),
    tokens: &Tokens,
    device: &Device,
    mut answer: impl FnMut(Prediction) -> Result<()>,
) -> Result<Scores> {
    let source = Place::at(&requests.input).open()?;
    let source = &*source;
    let given = requests.task.clone();
    let task = match given.or_else(|| card.and_then(|card| card.task.clone())) {
        Some(task) => task,
        None => guess::task(&requests.adapter, directory, source, tokens)?,
    };
    let options = TextOptions {
        max_length: match card {
            Some(card) => card.max_length,
            None => usual_length(directory, tokens)?,
        },
        ..TextOptions::default()
    };
    let prepared = task.prepare_requests(source, tokens).map_err(input)?;
    let measures = card.map(|card| card.measures.clone()).unwrap_or_default();
    let goal = Goal {
        output: prepared.output,
        outputs: prepared.outputs(),
        labels: prepared.labels.names().to_vec(),
        metrics: match measures.is_empty() {
            true => prepared.metrics.clone(),
            false => measures,
        },
        text: None,
    };
    let is_language = matches!(goal.output, Output::NextToken | Output::MaskedToken);
    let labelled = match is_language {
        true => None,
        false => labelled(&task, source, tokens, &options),
    };
    let is_measured = labelled.is_some();
    let prompts = for_prompts(tokens);
    let asking = match goal.output {
        Output::NextToken => &prompts,
        _ => tokens,
    };
    let set = match labelled {
        Some(set) => set,
        None => TextSet::requests(source, &prepared, asking, &options).map_err(input)?,
    };
    let answers = card.map(|card| card.answers.clone()).unwrap_or_default();
    let generation = Generation {
        max_new_tokens: requests.max_new_tokens.unwrap_or(answers.max_new_tokens),
        sampling: requests.sampling.clone(),
        ..Generation::default()
    };

    let head = head(goal.output, goal.outputs);
    let model = adapted(requests, (directory, card), head, device)?;
    let size = requests.batch_size.max(1);
    let (mut seen, mut compared) = (None, Compared::default());
    let all: Vec<usize> = (0..set.len()).collect();
    for rows in all.chunks(size) {
        let batch = set.batch(rows, 0, 0).map_err(input)?;
        let texts = text(&batch, device);
        let found = if goal.output == Output::NextToken {
            let texts = continued(&model, &texts, &prompts, &generation)?;
            compared.add(&texts, &batch.targets, &prompts)?;
            let prediction = |text| Prediction {
                text: Some(text),
                ..NOTHING
            };
            texts.into_iter().map(prediction).collect()
        } else {
            let logits = logits(&model.model, &Inputs::Text(texts), &model.ctx(Mode::Eval))?;
            if is_measured {
                let found = predictions(&goal, logits.clone(), &batch.targets, device);
                seen = Some(joined(seen, found));
            }
            classified(&prepared, logits, &batch.mask, batch.tokens)
        };
        for (line, found) in batch.lines.iter().zip(found) {
            answer(Prediction {
                line: *line,
                ..found
            })?;
        }
    }

    let mut measured: Vec<Predictions> = seen.into_iter().collect();
    // Prompts alone have no likelihood of answers.
    let is_asked = matches!(task, Task::Instruction(_)) && compared.is_empty();
    if is_language
        && !is_asked
        && let Some(set) = self::labelled(&task, source, tokens, &options)
    {
        let all: Vec<usize> = (0..set.len()).collect();
        let examples = (&Examples::Text(set), &all[..]);
        measured.push(predicted(&model, examples, &goal, (size, device), || ())?);
    }
    if !compared.is_empty() {
        measured.push(compared.into_predictions());
    }
    let mut scores = Scores::default();
    scores.add(&goal.metrics, &measured, None);
    Ok(scores)
}

/// The requests with what is expected, if the file has that.
fn labelled(
    task: &Task,
    source: &dyn Source,
    tokens: &Tokens,
    options: &TextOptions,
) -> Option<TextSet> {
    let prepared = task.prepare(source, tokens).ok()?;
    match TextSet::new(source, &prepared, tokens, options) {
        Ok(set) => Some(set),
        Err(error) => {
            eprintln!("warning: nothing is measured: {error}");
            None
        }
    }
}

/// The model with the adapter, for predictions.
pub(super) fn adapted(
    requests: &Requests,
    (directory, card): (&Path, Option<&Card>),
    head: engraft_models::Task,
    device: &Device,
) -> Result<Adapted<Pretrained>> {
    let base = card.and_then(|card| card.base);
    let mut adapted = subject(directory, Some(head), base, device, 0)?;
    for warning in adapters::load(&mut adapted, &requests.adapter)? {
        eprintln!("warning: {warning}");
    }
    Ok(adapted)
}

const NOTHING: Prediction = Prediction {
    line: 0,
    file: None,
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
pub(super) fn one_class(names: &[String], logits: burn::tensor::Tensor<2>) -> Vec<Prediction> {
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
