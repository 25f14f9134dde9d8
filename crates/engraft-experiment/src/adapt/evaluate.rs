//! How well a model does on examples.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, activation};
use engraft_core::{Adapted, Mode};
use engraft_data::Metric;
use engraft_data::task::Output;
use engraft_data::text::{IGNORED, Targets};
use engraft_models::{Logits, Pretrained};
use engraft_tensor::bridge;
use engraft_train::metrics::Predictions;

use super::data::{Data, Evaluation};
use super::examples::{Examples, Goal, logits};
use super::generated::Asked;
use crate::{Error, Result};

/// Values of metrics by name, the most telling first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores(pub Vec<(String, f64)>);

impl Scores {
    /// By name.
    pub fn by_name(&self) -> BTreeMap<String, f64> {
        self.0.iter().cloned().collect()
    }

    /// Adds the metrics that apply to one of the predictions; `part` distinguishes those of several
    /// evaluations.
    pub(super) fn add(
        &mut self,
        metrics: &[Metric],
        predictions: &[Predictions],
        part: Option<&str>,
    ) {
        for metric in metrics {
            let mut values = predictions.iter().map(|found| found.measure(*metric));
            if let Some(value) = values.find_map(std::result::Result::ok) {
                let name = match part {
                    Some(part) => format!("{metric}-{part}"),
                    None => metric.to_string(),
                };
                self.0.push((name, value));
            }
        }
    }
}

impl std::fmt::Display for Scores {
    /// A line for each metric.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max();
        for (name, value) in &self.0 {
            writeln!(f, "{name:<0$} {value:.4}", width.unwrap_or(0))?;
        }
        Ok(())
    }
}

/// Scores of a model in validation mode. `watch` hears how many batches are done, and of how many.
pub(super) fn evaluate(
    model: &Adapted<Pretrained>,
    data: &Data,
    goal: &Goal,
    (size, device): (usize, &Device),
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Scores> {
    let size = size.max(1);
    let batches = |evaluation: &Evaluation| {
        let asked = evaluation.asked.as_ref().map_or(0, Asked::len);
        evaluation.rows.len().div_ceil(size) + asked.div_ceil(size)
    };
    let all = data.evaluations.iter().map(batches).sum();
    let mut done = 0;
    let mut next = || {
        done += 1;
        watch(done, all);
    };
    let mut scores = Scores::default();
    for evaluation in &data.evaluations {
        let examples = data.evaluated(evaluation);
        let mut found = vec![predicted(
            model,
            (examples, &evaluation.rows),
            goal,
            (size, device),
            &mut next,
        )?];
        if let Some(asked) = &evaluation.asked {
            found.push(asked.answers(model, (size, device), &mut next)?);
        }
        scores.add(&goal.metrics, &found, evaluation.name);
    }
    Ok(scores)
}

/// What a model in validation mode predicts for the examples at these positions, `size` at once.
pub(super) fn predicted(
    model: &Adapted<Pretrained>,
    (examples, rows): (&Examples, &[usize]),
    goal: &Goal,
    (size, device): (usize, &Device),
    mut done: impl FnMut(),
) -> Result<Predictions> {
    let mut seen: Option<Predictions> = None;
    for rows in rows.chunks(size) {
        // Masked tokens are drawn once for all evaluations.
        let batch = examples.batch(rows, 0, 0, device)?;
        let logits = logits(&model.model, &batch.inputs, &model.ctx(Mode::Eval))?;
        let found = predictions(goal, logits, &batch.targets, device);
        seen = Some(joined(seen, found));
        done();
    }
    seen.ok_or_else(|| Error::Input("there is nothing to evaluate on".to_owned()))
}

/// What a batch's logits predict.
pub(super) fn predictions(
    goal: &Goal,
    logits: Logits,
    targets: &Targets,
    device: &Device,
) -> Predictions {
    match (goal.output, logits, targets) {
        (Output::Class, Logits::Sequence(logits), Targets::Classes(labels)) => {
            Predictions::Classes {
                predicted: largest(logits),
                labels: labels.iter().map(|label| *label as usize).collect(),
                classes: goal.outputs,
            }
        }
        (Output::Number, Logits::Sequence(logits), Targets::Values { values, .. }) => {
            Predictions::Numbers {
                predicted: bridge::values(&logits),
                labels: values.iter().map(|value| f64::from(*value)).collect(),
            }
        }
        (Output::Classes, Logits::Sequence(logits), Targets::Values { values, width }) => {
            Predictions::Sets {
                predicted: bridge::values(&logits)
                    .into_iter()
                    .map(|value| value > 0.0)
                    .collect(),
                labels: values.iter().map(|value| *value > 0.5).collect(),
                classes: *width,
            }
        }
        (Output::TokenClass, Logits::Tokens(logits), Targets::Tokens(labels)) => {
            let (chosen, labels) = labelled(logits, labels, 0, device);
            Predictions::Classes {
                predicted: chosen.map(largest).unwrap_or_default(),
                labels: labels.into_iter().map(|label| label as usize).collect(),
                classes: goal.outputs,
            }
        }
        (Output::NextToken, Logits::Tokens(logits), Targets::Tokens(labels)) => {
            likelihood(logits, labels, 1, device)
        }
        (Output::MaskedToken, Logits::Tokens(logits), Targets::Tokens(labels)) => {
            likelihood(logits, labels, 0, device)
        }
        (output, ..) => panic!("no predictions for the output {output:?} with these targets"),
    }
}

/// Logits at the positions with a label, and those labels; a label is compared with the output so
/// many positions before it.
fn labelled(
    logits: Tensor<3>,
    labels: &[i64],
    before: usize,
    device: &Device,
) -> (Option<Tensor<2>>, Vec<i64>) {
    let [batch, tokens, width] = logits.dims();
    let (mut places, mut kept) = (Vec::new(), Vec::new());
    for (place, label) in labels.iter().enumerate() {
        if *label != IGNORED && place % tokens.max(1) >= before {
            places.push((place - before) as i64);
            kept.push(*label);
        }
    }
    if places.is_empty() {
        return (None, kept);
    }
    let places = super::examples::whole(&places, [places.len()], device);
    let chosen = logits.reshape([batch * tokens, width]).select(0, places);
    (Some(chosen), kept)
}

fn likelihood(logits: Tensor<3>, labels: &[i64], before: usize, device: &Device) -> Predictions {
    let (chosen, labels) = labelled(logits, labels, before, device);
    let count = labels.len();
    let Some(chosen) = chosen else {
        return Predictions::Likelihood {
            loss: 0.0,
            tokens: 0,
            hits: 0,
        };
    };
    let right = super::examples::whole(&labels, [count, 1], device);
    let log = activation::log_softmax(chosen.clone(), 1).gather(1, right);
    let hits = largest(chosen).into_iter().zip(&labels);
    Predictions::Likelihood {
        loss: -bridge::values(&log).iter().sum::<f64>(),
        tokens: count,
        hits: hits
            .filter(|(found, label)| *found as i64 == **label)
            .count(),
    }
}

/// The column of the largest number of each row.
fn largest(logits: Tensor<2>) -> Vec<usize> {
    let rows = logits.dims()[0];
    let indices = logits
        .argmax(1)
        .reshape([rows])
        .into_data()
        .convert::<i64>();
    let indices: Vec<i64> = indices.try_to_vec().expect("converted to i64");
    indices.into_iter().map(|index| index as usize).collect()
}

/// Both one after the other.
pub(super) fn joined(seen: Option<Predictions>, more: Predictions) -> Predictions {
    use Predictions::{Classes, Likelihood, Numbers, Sets};
    fn all<T>(mut seen: Vec<T>, more: Vec<T>) -> Vec<T> {
        seen.extend(more);
        seen
    }
    let Some(seen) = seen else {
        return more;
    };
    match (seen, more) {
        (
            Classes {
                predicted,
                labels,
                classes,
            },
            Classes {
                predicted: next,
                labels: right,
                ..
            },
        ) => Classes {
            predicted: all(predicted, next),
            labels: all(labels, right),
            classes,
        },
        (
            Sets {
                predicted,
                labels,
                classes,
            },
            Sets {
                predicted: next,
                labels: right,
                ..
            },
        ) => Sets {
            predicted: all(predicted, next),
            labels: all(labels, right),
            classes,
        },
        (
            Numbers { predicted, labels },
            Numbers {
                predicted: next,
                labels: right,
            },
        ) => Numbers {
            predicted: all(predicted, next),
            labels: all(labels, right),
        },
        (
            Likelihood { loss, tokens, hits },
            Likelihood {
                loss: more,
                tokens: count,
                hits: right,
            },
        ) => Likelihood {
            loss: loss + more,
            tokens: tokens + count,
            hits: hits + right,
        },
        (_, more) => more,
    }
}
