//! The training loop.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use engraft_core::{Mode, Time, Trained, params};

use crate::batcher::Batches;
use crate::curves::{Curves, Point};
use crate::error::{Error, Result};
use crate::learning_rates::LearningRates;
use crate::loss::{IntoLoss, Loss};
use crate::optimizer::Optimizer;
use crate::parts::accumulated;
use crate::schedule::Schedule;
use crate::train_config::TrainConfig;

/// A run: a model, its optimiser, and how far it got.
#[derive(Debug)]
pub struct Trainer<M> {
    pub(crate) config: TrainConfig,
    // Taken out while it is stepped, so that the update may reuse its memory.
    pub(crate) model: Option<M>,
    pub(crate) optimizer: Optimizer,
    schedule: Schedule,
    pub(crate) step: u64,
    pub(crate) curves: Curves,
    /// Sum and number of the losses since the last point of the curve.
    pub(crate) pending: Option<(Tensor<1>, u64)>,
    pub(crate) best: Option<BTreeMap<String, TensorData>>,
}

impl<M: Trained> Trainer<M> {
    /// A run that has not started. What the model trains is trained; the rest stays frozen.
    ///
    /// # Errors
    /// A setting out of its range, or nothing to train.
    pub fn new(config: TrainConfig, model: M) -> Result<Self> {
        config.validate()?;
        let model = model.train();
        if !params::list(&model).iter().any(|param| param.trained) {
            let reason =
                "it has no trained parameter: attach an adapter, or train its head".to_owned();
            return Err(Error::BadConfig {
                what: "model",
                reason,
            });
        }
        let optimizer = Optimizer::new(config.optimizer, LearningRates::new(&config.rates)?)?;
        let schedule = Schedule {
            decay: config.decay,
            warmup: config.warmup,
            steps: config.steps,
        };
        Ok(Self {
            config,
            model: Some(model),
            optimizer,
            schedule,
            step: 0,
            curves: Curves::default(),
            pending: None,
            best: None,
        })
    }

    /// The model as it is, in training mode.
    pub fn model(&self) -> &M {
        self.model.as_ref().expect("it is only away within a step")
    }

    /// Updates made.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The curves so far.
    pub fn curves(&self) -> &Curves {
        &self.curves
    }

    /// One update on the loss of the model, `[1]`, which sees the mode for its dropout, plus what its
    /// adapters add to it. The loss is read from the device every `loss_every` steps only.
    ///
    /// # Errors
    /// [`Error::Diverged`] when a loss that was read is not finite, whatever methods return that
    /// change their structure, and what the loss returns: the model is then as it was.
    pub fn step<L: IntoLoss>(&mut self, loss: impl FnOnce(&M, Mode) -> L) -> Result<()> {
        let mut loss = Some(loss);
        self.step_in_parts(1, |model, _, mode| {
            let loss = loss.take().expect("there is one part");
            loss(model, mode).into_loss(1)
        })
    }

    /// One update on the weighted mean of the losses of several parts of a batch, which are computed
    /// one after the other: `loss` of the model for a part below `parts`, whose dropout is its own.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_in_parts(
        &mut self,
        parts: usize,
        loss: impl FnMut(&M, usize, Mode) -> Result<Loss>,
    ) -> Result<()> {
        let mut model = self.model.take().expect("it is only away within a step");
        let (seed, step) = (self.config.seed, self.step);
        let time = Time {
            step,
            total: self.config.steps,
        };
        let wanted = model.wanted(time);
        model = want(model, &wanted, true);
        let computed = accumulated(&mut model, parts, seed, step, loss);
        model = want(model, &wanted, false);
        let (mut gradients, loss) = match computed {
            Ok(computed) => computed,
            Err(error) => {
                self.model = Some(model);
                return Err(error);
            }
        };
        let dense = gradients.split_off(&wanted);
        if let Some(max) = self.config.clip {
            gradients.clip(max);
        }
        let lr = self.config.learning_rate * self.schedule.factor(step);
        model = self.optimizer.step(model, &gradients, lr);
        gradients.extend(dense);
        let resets = model.after_update(time, &gradients)?;
        self.optimizer.forget(&resets);
        self.model = Some(model);
        self.step += 1;
        self.record(loss)
    }

    fn record(&mut self, loss: Tensor<1>) -> Result<()> {
        let (sum, count) = match self.pending.take() {
            Some((sum, count)) => (sum + loss, count + 1),
            None => (loss, 1),
        };
        if !self.step.is_multiple_of(self.config.loss_every) && self.step < self.config.steps {
            self.pending = Some((sum, count));
            return Ok(());
        }
        let value = sum.into_scalar::<f64>() / count as f64;
        if !value.is_finite() {
            return Err(Error::Diverged {
                step: self.step,
                loss: value,
            });
        }
        self.curves.loss.push(Point {
            step: self.step,
            value,
        });
        Ok(())
    }

    /// Evaluates the model as it is in validation mode, and keeps it if it is the best so far.
    fn evaluate(&mut self, evaluate: &mut impl FnMut(&M) -> f64) {
        let value = evaluate(&self.model().valid());
        let best = self.curves.best();
        self.curves.evaluation.push(Point {
            step: self.step,
            value,
        });
        if self.config.keep_best && best.is_none_or(|best| value > best.value) {
            self.best = Some(self.trained_values());
        }
    }

    /// The values of the parameters that this run changes, by path.
    pub(crate) fn trained_values(&self) -> BTreeMap<String, TensorData> {
        let trained: Vec<String> = params::list(self.model())
            .into_iter()
            .filter(|param| param.trained || self.model().evolves(&param.path))
            .map(|param| param.path)
            .collect();
        params::read(self.model(), |path| {
            trained.iter().any(|chosen| chosen == path)
        })
    }

    /// Runs to the end, from wherever this run is: `loss` of the model on the rows of a batch, or of
    /// each of the `accumulate` parts of it, `evaluate` in validation mode (more is better), `after` each step (for progress and
    /// checkpoints).
    ///
    /// # Errors
    /// As [`step`](Self::step), and whatever `after` returns.
    pub fn run<L: IntoLoss>(
        &mut self,
        batches: &mut impl Batches,
        loss: impl Fn(&M, &[usize], Mode) -> L,
        mut evaluate: impl FnMut(&M) -> f64,
        mut after: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        while self.step < self.config.steps && !self.is_stopped() {
            let rows = batches.rows(self.step)?;
            let parts: Vec<&[usize]> = rows
                .chunks(rows.len().div_ceil(self.config.accumulate))
                .collect();
            self.step_in_parts(parts.len(), |model, part, mode| {
                loss(model, parts[part], mode).into_loss(parts[part].len())
            })?;
            let every = self.config.evaluate_every;
            if every > 0 && (self.step.is_multiple_of(every) || self.step == self.config.steps) {
                self.evaluate(&mut evaluate);
            }
            after(self)?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.config.early_stop.is_some_and(|stop| {
            stop.is_over(self.curves.evaluation.iter().map(|point| point.value))
        })
    }

    /// The trained model, in training mode, with its curves: the last parameters, or the best
    /// evaluated ones with `keep_best`.
    pub fn finish(mut self) -> (M, Curves) {
        let model = self.model.take().expect("it is only away within a step");
        let model = match self.best.take() {
            Some(best) => params::write(model, best),
            None => model,
        };
        (model, self.curves)
    }
}

/// The module with these frozen parameters differentiated as well, or no longer.
fn want<M: Module>(model: M, paths: &[String], wanted: bool) -> M {
    if paths.is_empty() {
        return model;
    }
    params::set_trained(model, |path| {
        paths.iter().any(|chosen| chosen == path).then_some(wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stop::EarlyStop;
    use crate::testing::{Problem, config};

    #[test]
    fn a_run_learns_and_keeps_the_best() {
        let problem = Problem::new();
        let config = TrainConfig {
            steps: 60,
            keep_best: true,
            evaluate_every: 7,
            ..config()
        };
        let mut trainer = Trainer::new(config, problem.adapted()).unwrap();
        trainer
            .run(
                &mut problem.batcher(),
                |m, rows, mode| problem.loss(m, rows, mode),
                |_| 0.0,
                |_| Ok(()),
            )
            .unwrap();
        let curves = trainer.curves().clone();
        assert!(
            curves.loss.last().unwrap().value < 0.5 * curves.loss[0].value,
            "{curves:?}"
        );
        assert_eq!(
            curves
                .evaluation
                .iter()
                .map(|point| point.step)
                .collect::<Vec<_>>(),
            [7, 14, 21, 28, 35, 42, 49, 56, 60]
        );
        // All evaluations are equal, so the first is the best.
        let expected = trainer.best.clone().unwrap();
        assert_ne!(expected, trainer.trained_values());
        let (model, _) = trainer.finish();
        assert_eq!(
            params::read(&model, |path| expected.contains_key(path)),
            expected
        );
    }

    #[test]
    fn only_what_is_trained_moves_and_early_stopping_stops() {
        let problem = Problem::new();
        let config = TrainConfig {
            steps: 50,
            evaluate_every: 2,
            early_stop: Some(EarlyStop {
                patience: 2,
                min_delta: 0.0,
            }),
            ..config()
        };
        let mut trainer = Trainer::new(config, problem.adapted()).unwrap();
        let before = params::read(trainer.model(), |_| true);
        trainer
            .run(
                &mut problem.batcher(),
                |m, rows, mode| problem.loss(m, rows, mode),
                |_| 1.0,
                |_| Ok(()),
            )
            .unwrap();
        assert_eq!(trainer.steps_done(), 8);
        for (path, value) in params::read(trainer.model(), |_| true) {
            assert_eq!(
                value != before[&path],
                path.contains(".adapters."),
                "{path}"
            );
        }
    }

    #[test]
    fn bad_settings_and_divergence_are_errors() {
        let problem = Problem::new();
        let message = |config| {
            Trainer::new(config, problem.adapted())
                .unwrap_err()
                .to_string()
        };
        assert!(
            message(TrainConfig {
                learning_rate: f64::NAN,
                ..config()
            })
            .contains("learning-rate")
        );
        assert!(
            message(TrainConfig {
                keep_best: true,
                evaluate_every: 0,
                ..config()
            })
            .contains("evaluate-every")
        );
        assert!(
            Trainer::new(config(), engraft_core::Adapted::new(problem.model()))
                .unwrap_err()
                .to_string()
                .contains("no trained parameter")
        );
        let mut trainer = Trainer::new(
            TrainConfig {
                learning_rate: 1e30,
                ..config()
            },
            problem.adapted(),
        )
        .unwrap();
        let ran = trainer.run(
            &mut problem.batcher(),
            |m, rows, mode| problem.loss(m, rows, mode),
            |_| 0.0,
            |_| Ok(()),
        );
        assert!(matches!(ran, Err(Error::Diverged { .. })), "{ran:?}");
    }
}
