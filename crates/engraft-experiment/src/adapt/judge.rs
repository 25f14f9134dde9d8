//! Examples of a task that an adapter is judged by: what its data are, and what a model loses on them.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use engraft_core::{Adapted, Mode};
use engraft_data::task::Output;
use engraft_data::{Task, TextOptions};
use engraft_models::Pretrained;
use engraft_tensor::bridge;

use super::adapters;
use super::card::Card;
use super::examples::{Batch, Examples, Goal, logits};
use super::guess;
use super::objective::objective;
use super::predict::outputs;
use super::source::Place;
use super::subject::{Reader, check_length, head, input, located, subject, usual_length};
use crate::{Error, Result};

/// Which examples.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The model: its directory, or its id on the Hugging Face hub.
    pub model: PathBuf,
    /// An adapter of the task: its card says what the task is.
    pub adapter: PathBuf,
    /// File of text, or a directory of images by class.
    pub data: PathBuf,
    /// The task; what the adapter says if absent.
    pub task: Option<Task>,
    /// Most tokens of a text.
    pub max_length: Option<usize>,
    /// Examples at most: the first ones.
    pub examples: usize,
    /// Examples at once.
    pub batch_size: usize,
}

/// A model and examples for it.
pub(crate) struct Judge {
    /// The model with its head, nothing attached.
    pub subject: Adapted<Pretrained>,
    goal: Goal,
    batches: Vec<Batch>,
}

impl Judge {
    /// Loads the model and reads the examples.
    ///
    /// # Errors
    /// A model or data that cannot be read, data that are not of the task.
    pub fn new(sample: &Sample, device: &Device) -> Result<Self> {
        let card = Card::read(&sample.adapter)?;
        let model = located(&sample.model)?;
        let reader = Reader::of(&model)?;
        let place = Place::at(&sample.data);
        let text = TextOptions {
            max_length: match (&reader, sample.max_length, &card) {
                (_, Some(most), _) => most,
                (_, None, Some(card)) => card.max_length,
                (Reader::Text(tokens), None, None) => usual_length(&model, tokens)?,
                (Reader::Images(_), None, None) => TextOptions::default().max_length,
            },
            ..TextOptions::default()
        };
        let given = sample.task.clone();
        let known = given.or_else(|| card.as_ref().and_then(|card| card.task.clone()));
        let task = match (known, &reader) {
            (None, Reader::Text(tokens)) => {
                let source = place.open()?;
                Some(guess::task(&sample.adapter, &model, &*source, tokens)?)
            }
            (known, _) => known,
        };
        let (examples, goal) = Examples::learned(&place, &reader, task.as_ref(), &text)?;
        if let Some(card) = card
            .as_ref()
            .filter(|card| sample.task.is_none() && card.labels != goal.labels)
        {
            return Err(Error::Input(format!(
                "{}: its labels are {:?}, and {} was trained for {:?}",
                sample.data.display(),
                goal.labels,
                sample.adapter.display(),
                card.labels
            )));
        }
        let outputs = card.as_ref().map_or(goal.outputs, outputs);
        let base = card.as_ref().and_then(|card| card.base);
        let subject = subject(&model, Some(head(goal.output, outputs)), base, device, 0)?;
        let rows: Vec<usize> = (0..examples.len().min(sample.examples)).collect();
        if rows.is_empty() {
            return Err(Error::Input(format!(
                "{}: no examples",
                sample.data.display()
            )));
        }
        if let Examples::Text(set) = &examples {
            let longest = set.lengths(&rows).map_err(input)?.into_iter().max();
            check_length(&subject, longest.unwrap_or(1), device)?;
        }
        let batches = rows.chunks(sample.batch_size.max(1));
        let batches = batches.map(|rows| examples.batch(rows, 0, 0, device));
        Ok(Self {
            subject,
            goal,
            batches: batches.collect::<Result<_>>()?,
        })
    }

    /// Attaches an adapter to a copy of the model; what a user should know of it.
    pub fn adapted(&self, adapter: &Path) -> Result<(Adapted<Pretrained>, Vec<String>)> {
        let mut adapted = self.subject.clone();
        let warnings = adapters::load(&mut adapted, adapter)?;
        Ok((adapted, warnings))
    }

    /// The batches.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// -log p(targets | inputs) of a batch, `[1]`, the sum over its predictions; of numbers, as normal ones
    /// with a variance of 1, but for a constant. And how many predictions there are.
    pub fn likelihood(
        &self,
        model: &Adapted<Pretrained>,
        batch: &Batch,
    ) -> Result<(Tensor<1>, f64)> {
        let logits = logits(&model.model, &batch.inputs, &model.ctx(Mode::Eval))?;
        let loss = objective(self.goal.output, logits, &batch.targets).map_err(input)?;
        let share = match self.goal.output {
            Output::Number => 0.5,
            Output::Classes => self.goal.outputs as f64,
            _ => 1.0,
        };
        Ok((loss.mean * (share * loss.weight), loss.weight))
    }

    /// The mean loss over all predictions.
    pub fn loss(&self, model: &Adapted<Pretrained>) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for batch in &self.batches {
            let (loss, weight) = self.likelihood(model, batch)?;
            if weight > 0.0 {
                sum += bridge::values(&loss)[0];
                count += weight;
            }
        }
        match count > 0.0 {
            true => Ok(sum / count),
            false => Err(Error::Input("the examples ask for nothing".to_owned())),
        }
    }
}
