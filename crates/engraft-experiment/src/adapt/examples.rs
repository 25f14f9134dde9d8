//! Examples of a file or a directory, as batches of tensors.

use burn::tensor::{Device, Int, Tensor, TensorData};
use engraft_core::{Ctx, Text};
use engraft_data::task::{Output, Prepared};
use engraft_data::text::{Order, Targets};
use engraft_data::{ImageFolder, Metric, Task, TextBatch, TextOptions, TextSet};
use engraft_models::{Logits, Pretrained};

use super::source::Place;
use super::subject::{Reader, input};
use crate::{Error, Result};

/// Batches whose examples are sorted by length together.
const BUCKET: usize = 16;

/// What a model sees.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for a batch, and tensors are handles"
)]
pub enum Inputs {
    /// Tokens.
    Text(Text),
    /// [batch, channels, height, width].
    Pixels(Tensor<4>),
}

/// Inputs and what is to be learned of them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What the model sees.
    pub inputs: Inputs,
    /// Labels.
    pub targets: Targets,
}

/// What is learned, settled for the data.
#[derive(Debug, Clone)]
pub struct Goal {
    /// What the model computes.
    pub output: Output,
    /// Its outputs, 0 where they are the vocabulary.
    pub outputs: usize,
    /// Names of classes.
    pub labels: Vec<String>,
    /// What is measured.
    pub metrics: Vec<Metric>,
    /// For text: the task as the data settled it.
    pub text: Option<(Task, Prepared)>,
}

/// The examples of a file or a directory.
#[derive(Debug)]
pub enum Examples {
    /// Encoded text.
    Text(TextSet),
    /// Images in directories.
    Images(ImageFolder),
}

impl Examples {
    /// Reads what is to be learned, and settles the goal.
    pub fn learned(
        place: &Place,
        reader: &Reader,
        task: Option<&Task>,
        options: &TextOptions,
    ) -> Result<(Self, Goal)> {
        match reader {
            Reader::Text(tokens) => {
                let source = place.open()?;
                let task = match task {
                    Some(task) => task.clone(),
                    None => Task::guess(&*source).map_err(input)?,
                };
                let prepared = task.prepare(&*source, tokens).map_err(input)?;
                let set = TextSet::new(&*source, &prepared, tokens, options).map_err(input)?;
                let labels = prepared.labels.names().to_vec();
                let goal = Goal {
                    output: prepared.output,
                    outputs: prepared.outputs(),
                    metrics: prepared.metrics.clone(),
                    text: Some((task.with_labels(&labels), prepared)),
                    labels,
                };
                Ok((Self::Text(set), goal))
            }
            Reader::Images(options) => {
                let folder = ImageFolder::open(place.path(), options.clone()).map_err(input)?;
                let labels = folder.labels.names().to_vec();
                let goal = Goal {
                    output: Output::Class,
                    outputs: labels.len(),
                    labels,
                    metrics: vec![Metric::Accuracy, Metric::MacroF1],
                    text: None,
                };
                Ok((Self::Images(folder), goal))
            }
        }
    }

    /// Reads other data for the same goal.
    pub fn again(
        &self,
        place: &Place,
        reader: &Reader,
        goal: &Goal,
        options: &TextOptions,
    ) -> Result<Self> {
        match (reader, self, &goal.text) {
            (Reader::Text(tokens), _, Some((_, prepared))) => {
                let source = place.open()?;
                TextSet::new(&*source, prepared, tokens, options)
                    .map(Self::Text)
                    .map_err(input)
            }
            (Reader::Images(options), Self::Images(folder), _) => {
                ImageFolder::open_with(place.path(), &folder.labels, options.clone())
                    .map(Self::Images)
                    .map_err(input)
            }
            _ => Err(Error::Input("found text for a model of images".to_owned())),
        }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(set) => set.len(),
            Self::Images(folder) => folder.len(),
        }
    }

    /// One line for each thing that a user should know of the data.
    pub fn notes(&self) -> Vec<String> {
        let (problems, truncated) = match self {
            Self::Text(set) => (&set.problems, set.truncated),
            Self::Images(folder) => (&folder.problems, 0),
        };
        let mut notes: Vec<String> = problems
            .iter()
            .map(|problem| format!("left out: {problem}"))
            .collect();
        if truncated > 0 {
            notes.push(format!("{truncated} texts were cut to the largest length"));
        }
        notes
    }

    /// The batches of the window that a step is in, as positions in `among`.
    pub fn batches(&self, order: &Order, step: u64, among: &[usize]) -> Result<Vec<Vec<usize>>> {
        let places = order
            .batches(step, |places| {
                let rows: Vec<usize> = places.iter().map(|place| among[*place]).collect();
                match self {
                    Self::Text(set) => set.lengths(&rows),
                    Self::Images(_) => Ok(vec![0; rows.len()]),
                }
            })
            .map_err(input)?;
        let rows = |batch: Vec<usize>| batch.into_iter().map(|place| among[place]).collect();
        Ok(places.into_iter().map(rows).collect())
    }

    /// The order of training batches of `size` out of `count` examples.
    pub fn order(&self, count: usize, size: usize, seed: u64) -> Result<Order> {
        let order = Order::new(count, size, seed).map_err(input)?;
        Ok(match self {
            Self::Text(_) => order.bucketed(BUCKET),
            Self::Images(_) => order,
        })
    }

    /// The examples at these positions.
    pub fn batch(&self, rows: &[usize], seed: u64, epoch: u64, device: &Device) -> Result<Batch> {
        match self {
            Self::Text(set) => {
                let batch = set.batch(rows, seed, epoch).map_err(input)?;
                Ok(Batch {
                    inputs: Inputs::Text(text(&batch, device)),
                    targets: batch.targets,
                })
            }
            Self::Images(folder) => {
                let batch = folder.batch(rows).map_err(input)?;
                let pixels = TensorData::new(batch.pixels, batch.shape);
                Ok(Batch {
                    inputs: Inputs::Pixels(Tensor::from_data(pixels, device)),
                    targets: Targets::Classes(batch.labels),
                })
            }
        }
    }
}

/// Whole numbers as a tensor.
pub(super) fn whole<const D: usize>(
    values: &[i64],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// A batch of text on a device. Its mask is left out where nothing is padded.
pub(super) fn text(batch: &TextBatch, device: &Device) -> Text {
    let shape = [batch.size, batch.tokens];
    let mut text = Text::new(whole(&batch.ids, shape, device));
    if batch.mask.contains(&0) {
        text = text.with_mask(whole(&batch.mask, shape, device));
    }
    if batch.segments.iter().any(|segment| *segment != 0) {
        text = text.with_segments(whole(&batch.segments, shape, device));
    }
    text
}

/// What the model's head computes.
pub(super) fn logits(model: &Pretrained, inputs: &Inputs, ctx: &Ctx) -> Result<Logits> {
    let output = match inputs {
        Inputs::Text(text) => model.forward(text, ctx),
        Inputs::Pixels(pixels) => model.forward_image(pixels.clone(), ctx),
    };
    let output = output.map_err(|error| Error::Run(error.to_string()))?;
    output
        .logits
        .ok_or_else(|| Error::Run("the model has no head".to_owned()))
}
