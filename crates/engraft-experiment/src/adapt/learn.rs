//! Training an adapter.

use burn::module::Module;
use burn::tensor::Device;
use engraft_core::{Adaptable, Adapted, AnyMethod, Calibration, Counts, Injection, Mode};
use engraft_data::TextOptions;
use engraft_models::Pretrained;
use engraft_train::{
    AdamW, Decay, OptimizerConfig, RatePattern, TrainConfig, Trainer, Windowed, recomputing,
};
use serde::{Deserialize, Serialize};

use super::adapters;
use super::card::Card;
use super::data::Data;
use super::evaluate::evaluate;
use super::examples::{Batch, Goal, logits};
use super::objective::objective;
use super::quantised;
use super::subject::{Reader, check_length, device, head, input, located, subject, usual_length};
use super::summary::Summary;
use super::{ADAPTER, Settings};
use crate::{Error, Result};

/// How an adapter is trained: AdamW with a linear warm-up and a linear decay to 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Training {
    /// Passes over the data.
    pub epochs: u64,
    /// Updates instead.
    pub steps: Option<u64>,
    /// Examples of a batch.
    pub batch_size: usize,
    /// Parts of a batch that are computed one after the other, to save memory.
    pub accumulate: usize,
    /// Whether the backward pass computes element-wise outputs again instead of keeping them.
    pub recompute: bool,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Share of the updates that warm up.
    pub warmup: f64,
    /// Largest norm of the gradients.
    pub clip: f64,
    /// Examples that a method which starts from data sees.
    pub calibration: usize,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 3,
            steps: None,
            batch_size: 16,
            accumulate: 1,
            recompute: false,
            learning_rate: 5e-4,
            weight_decay: 0.0,
            warmup: 0.06,
            clip: 1.0,
            calibration: 64,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// Batches that were evaluated, before training and again after it.
    Evaluated {
        /// So many.
        done: usize,
        /// Of so many.
        all: usize,
    },
    /// Updates that were made.
    Learned {
        /// So many.
        steps: u64,
        /// Of so many.
        all: u64,
        /// The last loss that was read.
        loss: Option<f64>,
    },
}

/// Hears how far a run is.
pub type Observe<'a> = &'a mut dyn FnMut(Progress);

/// Trains, evaluates and saves an adapter.
///
/// # Errors
/// Anything wrong with the model, the data or the settings, before anything is trained; a loss that
/// is not finite. Then nothing was written.
pub fn adapt(settings: &Settings, observe: Observe<'_>) -> Result<Summary> {
    let device = device(&settings.device)?;
    adapters::check_free(&settings.out)?;
    let (id, config) = &settings.method;
    let method = engraft::method(id, config).map_err(input)?;
    let directory = located(&settings.model)?;
    let reader = Reader::of(&directory)?;
    let text = TextOptions {
        max_length: match (settings.max_length, &reader) {
            (None, Reader::Text(tokens)) => usual_length(&directory, tokens)?,
            (most, _) => most.unwrap_or(TextOptions::default().max_length),
        },
        bad_rows: settings.bad_rows,
        ..TextOptions::default()
    };
    let (data, goal) = Data::read(settings, &reader, &text)?;

    let tracked = match settings.training.recompute {
        true => recomputing(&device),
        false => device.clone().autodiff(),
    };
    let head = head(goal.output, goal.outputs);
    let mut adapted = subject(
        &directory,
        Some(head),
        settings.base,
        &tracked,
        settings.seed,
    )?;
    let fresh = adapted.model.report().fresh.clone();
    let quantised = settings
        .base
        .map(|how| quantised::loaded(how, &adapted.model.report().quantised));
    let longest = text.max_length.min(data.longest()?);
    let has_room = |adapted: &Adapted<Pretrained>| match reader {
        Reader::Text(_) => check_length(adapted, longest, &tracked),
        Reader::Images(_) => Ok(()),
    };
    has_room(&adapted)?;
    let first = data
        .learned
        .batch(&data.rows[..1], settings.seed, 0, &tracked)?;
    logits(&adapted.model, &first.inputs, &adapted.ctx(Mode::Eval)).map_err(input)?;
    let total = adapted.model.shapes().total();
    let counts = attach(&mut adapted, &method, settings, &data, &goal, &tracked)?;
    // Tokens that the adapter puts in front take positions too.
    has_room(&adapted)?;
    let size = settings.training.batch_size;
    let scores = |model: &Adapted<Pretrained>, observe: Observe<'_>| {
        evaluate(model, &data, &goal, (size, &device), &mut |done, all| {
            observe(Progress::Evaluated { done, all });
        })
    };
    let before = scores(&adapted.valid(), observe)?;
    let (adapted, steps) = train(
        adapted,
        settings,
        &method,
        (&data, &goal),
        &tracked,
        observe,
    )?;
    let adapted = adapted.valid();
    let after = scores(&adapted, observe)?;

    let card = Card {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: settings.model.display().to_string(),
        method: id.clone(),
        config: method.config().clone(),
        base: settings.base,
        output: goal.output,
        labels: goal.labels.clone(),
        task: goal.text.as_ref().map(|(task, _)| task.clone()),
        max_length: text.max_length,
        measures: goal.metrics.clone(),
        answers: settings.answers.clone(),
        seed: settings.seed,
        steps,
        metrics: after.by_name(),
    };
    let written = adapters::write(&adapted, &card, &settings.out)?;
    Ok(Summary {
        method: method.meta().name,
        counts,
        total,
        fresh,
        quantised,
        base: settings.base,
        notes: data.notes(&goal),
        examples: [data.rows.len(), data.held_out()],
        before,
        after,
        written,
        out: settings.out.clone(),
        model: settings.model.clone(),
        reads_images: matches!(reader, Reader::Images(_)),
        output: goal.output,
        outputs: goal.outputs,
    })
}

/// Grafts the method onto the model; a head of classes is trained along.
fn attach(
    adapted: &mut Adapted<Pretrained>,
    method: &AnyMethod,
    settings: &Settings,
    data: &Data,
    goal: &Goal,
    device: &Device,
) -> Result<Counts> {
    let injection = Injection {
        targets: settings.targets.clone().unwrap_or_default(),
        seed: settings.seed,
        train_head: goal.outputs > 0,
        ..Injection::default()
    };
    let calibration = if method.needs().any() || method.probe().is_some() {
        let size = settings.training.batch_size.max(1);
        let rows = &data.rows[..settings.training.calibration.min(data.rows.len())];
        let batches = rows
            .chunks(size)
            .map(|rows| data.learned.batch(rows, settings.seed, 0, device))
            .collect::<Result<Vec<_>>>()?;
        let loss = |model: &Adapted<Pretrained>, batch: Batch| {
            let logits = logits(&model.model, &batch.inputs, &model.ctx(Mode::Eval))
                .expect("the longest text, or an image, was read before");
            let loss = objective(goal.output, logits, &batch.targets);
            loss.expect("the head was made for these targets").mean
        };
        adapted
            .calibrate(method, &injection, batches, loss)
            .map_err(input)?
    } else {
        Calibration::default()
    };
    adapted
        .attach_calibrated(ADAPTER, method, &injection, &calibration)
        .map_err(input)?;
    adapted.counts(ADAPTER).map_err(input)
}

fn train(
    adapted: Adapted<Pretrained>,
    settings: &Settings,
    method: &AnyMethod,
    (data, goal): (&Data, &Goal),
    device: &Device,
    observe: Observe<'_>,
) -> Result<(Adapted<Pretrained>, u64)> {
    let training = &settings.training;
    let order = data
        .learned
        .order(data.rows.len(), training.batch_size, settings.seed)?;
    let steps = training
        .steps
        .unwrap_or(training.epochs * order.steps_per_epoch());
    let config = TrainConfig {
        steps,
        seed: settings.seed,
        learning_rate: training.learning_rate,
        optimizer: OptimizerConfig::AdamW(AdamW {
            weight_decay: training.weight_decay,
            ..AdamW::default()
        }),
        decay: Decay::Linear,
        warmup: (training.warmup * steps as f64).round() as u64,
        clip: Some(training.clip),
        rates: RatePattern::declared(method, ADAPTER),
        loss_every: 5,
        accumulate: training.accumulate,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(config, adapted).map_err(input)?;
    let batches = |step| data.learned.batches(&order, step, &data.rows);
    let mut rows = Windowed::new(order.clone(), |step| batches(step).map_err(of_data));
    trainer
        .run(
            &mut rows,
            |model, rows, mode| {
                let step = match mode {
                    Mode::Train { step, .. } => step,
                    Mode::Eval => 0,
                };
                let epoch = order.epoch(step);
                let batch = data
                    .learned
                    .batch(rows, settings.seed, epoch, device)
                    .map_err(of_data)?;
                let logits =
                    logits(&model.model, &batch.inputs, &model.ctx(mode)).map_err(of_data)?;
                objective(goal.output, logits, &batch.targets)
            },
            |_| 0.0,
            |trainer| {
                let loss = trainer.curves().loss.last().map(|point| point.value);
                observe(Progress::Learned {
                    steps: trainer.steps_done(),
                    all: steps,
                    loss,
                });
                Ok(())
            },
        )
        .map_err(|error| Error::Run(error.to_string()))?;
    let done = trainer.steps_done();
    Ok((trainer.finish().0, done))
}

/// An error of the data in the middle of a run.
fn of_data(error: Error) -> engraft_train::Error {
    engraft_train::Error::BadConfig {
        what: "data",
        reason: error.to_string(),
    }
}
