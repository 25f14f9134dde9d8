//! Training an adapter.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::Device;
use engraft_core::{Adaptable, Adapted, AnyMethod, Calibration, Counts, Injection, Mode};
use engraft_models::Pretrained;
use engraft_train::{AdamW, Decay, OptimizerConfig, RatePattern, TrainConfig, Trainer, Windowed};
use serde::{Deserialize, Serialize};

use super::adapters;
use super::card::Card;
use super::evaluate::evaluate;
use super::examples::{Batch, Examples, Goal, logits};
use super::objective::objective;
use super::quantised;
use super::subject::{Reader, check_length, device, head, input, subject};
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
            learning_rate: 5e-4,
            weight_decay: 0.0,
            warmup: 0.06,
            clip: 1.0,
            calibration: 64,
        }
    }
}

/// How far a run is: updates made, updates in all, and the last loss that was read.
pub type Observe<'a> = &'a mut dyn FnMut(u64, u64, Option<f64>);

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
    let reader = Reader::of(&settings.model)?;
    let (examples, goal) = Examples::learned(
        &settings.data,
        &reader,
        settings.task.as_ref(),
        &settings.text,
    )?;
    let data = Data::new(settings, &reader, examples, &goal)?;

    let tracked = device.clone().autodiff();
    let head = head(goal.output, goal.outputs);
    let mut adapted = subject(
        &settings.model,
        Some(head),
        settings.base,
        &tracked,
        settings.seed,
    )?;
    let fresh = adapted.model.report().fresh.clone();
    let quantised = settings
        .base
        .map(|how| quantised::loaded(how, &adapted.model.report().quantised));
    if matches!(reader, Reader::Text(_)) {
        check_length(
            &adapted,
            settings.text.max_length.min(data.longest()?),
            &tracked,
        )?;
    }
    let total = adapted.model.shapes().total();
    let counts = attach(&mut adapted, &method, settings, &data, &goal, &tracked)?;
    let size = settings.training.batch_size;
    let scores = |model: &Adapted<Pretrained>| {
        evaluate(
            model,
            data.evaluated(),
            &data.held_out,
            &goal,
            (size, &device),
        )
    };
    let before = scores(&adapted.valid())?;
    let (adapted, steps) = train(
        adapted,
        settings,
        &method,
        (&data, &goal),
        &tracked,
        observe,
    )?;
    let adapted = adapted.valid();
    let after = scores(&adapted)?;

    let card = Card {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: settings.model.display().to_string(),
        method: id.clone(),
        config: method.config().clone(),
        base: settings.base,
        output: goal.output,
        labels: goal.labels.clone(),
        task: goal.text.as_ref().map(|(task, _)| task.clone()),
        max_length: settings.text.max_length,
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
        notes: data.notes(),
        examples: [data.rows.len(), data.held_out.len()],
        before,
        after,
        written,
        out: settings.out.clone(),
        model: settings.model.clone(),
        output: goal.output,
        labels: goal.labels.len(),
    })
}

/// Examples to learn and examples to evaluate on.
struct Data {
    learned: Examples,
    evaluation: Option<Examples>,
    /// Positions that are learned.
    rows: Vec<usize>,
    /// Positions that are evaluated on.
    held_out: Vec<usize>,
}

impl Data {
    fn new(settings: &Settings, reader: &Reader, learned: Examples, goal: &Goal) -> Result<Self> {
        let all: Vec<usize> = (0..learned.len()).collect();
        if let Some(path) = &settings.evaluation {
            let evaluation = learned.again(path, reader, goal, &settings.text)?;
            let held_out = (0..evaluation.len()).collect();
            return Ok(Self {
                learned,
                evaluation: Some(evaluation),
                rows: all,
                held_out,
            });
        }
        let share = settings.hold_out;
        if !(0.0..1.0).contains(&share) {
            return Err(Error::Input(format!(
                "hold-out: found {share}, expected a share of at least 0 and less than 1"
            )));
        }
        let count = (share * all.len() as f64).round().max(1.0) as usize;
        if count >= all.len() {
            return Err(Error::Input(format!(
                "found {} examples, expected at least 2: one to learn and one to evaluate on",
                all.len()
            )));
        }
        let shuffled = engraft_data::batches(all.len(), count, settings.seed, 0).map_err(input)?;
        let held: BTreeSet<usize> = shuffled[0].iter().copied().collect();
        let (held_out, rows) = (0..learned.len()).partition(|row| held.contains(row));
        Ok(Self {
            learned,
            evaluation: None,
            rows,
            held_out,
        })
    }

    fn evaluated(&self) -> &Examples {
        self.evaluation.as_ref().unwrap_or(&self.learned)
    }

    /// Tokens of the longest text.
    fn longest(&self) -> Result<usize> {
        let of = |examples: &Examples| match examples {
            Examples::Text(set) => {
                let all: Vec<usize> = (0..set.len()).collect();
                set.lengths(&all).map_err(input)
            }
            Examples::Images(_) => Ok(Vec::new()),
        };
        let mut lengths = of(&self.learned)?;
        lengths.extend(of(self.evaluated())?);
        Ok(lengths.into_iter().max().unwrap_or(1))
    }

    fn notes(&self) -> Vec<String> {
        let evaluation = self.evaluation.iter().flat_map(Examples::notes);
        self.learned.notes().into_iter().chain(evaluation).collect()
    }
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
    let calibration = if method.needs().any() {
        let size = settings.training.batch_size.max(1);
        let rows = &data.rows[..settings.training.calibration.min(data.rows.len())];
        let batches = rows
            .chunks(size)
            .map(|rows| data.learned.batch(rows, settings.seed, 0, device))
            .collect::<Result<Vec<_>>>()?;
        let loss = |model: &Adapted<Pretrained>, batch: Batch| {
            let logits = logits(&model.model, &batch.inputs, &model.ctx(Mode::Eval))
                .expect("the longest text was read before");
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
                observe(trainer.steps_done(), steps, loss);
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
