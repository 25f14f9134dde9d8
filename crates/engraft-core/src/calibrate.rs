//! The calibration pass that data-driven initialisers share.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::adaptable::{Adaptable, Slot};
use crate::adapted::{Adapted, Injection};
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::method::AnyMethod;
use crate::params;
use crate::plan::Plan;
use crate::statistics::{Calibration, Needs, Observer};

impl<M: Adaptable> Adapted<M> {
    /// Runs the model over calibration batches, all adapters off, and returns what `method` needs to know
    /// of the layers that `injection` targets, for [`attach_calibrated`](Self::attach_calibrated).
    /// `loss` is the scalar loss of a batch, through the model's own [`ctx`](Self::ctx); it is
    /// differentiated only if the method needs gradients. A method that needs nothing costs
    /// nothing. Where an initialiser at sites wants the gradients of the adapter's own parameters
    /// ([`SiteGraft::probe`](crate::SiteGraft::probe)), the probe is active while the batches run.
    ///
    /// # Errors
    /// Targets that match nothing, a layer that the method does not admit, no batch, a layer that
    /// no batch reached, or a device without gradients where they are needed.
    pub fn calibrate<B>(
        &mut self,
        method: &AnyMethod,
        injection: &Injection,
        batches: impl IntoIterator<Item = B>,
        mut loss: impl FnMut(&Self, B) -> Tensor<1>,
    ) -> Result<Calibration> {
        let plan = Plan::new(method, &self.model.shapes(), injection)?;
        let needs = plan
            .layers
            .iter()
            .fold(Needs::default(), |needs, (_, method)| {
                needs.and(method.needs())
            });
        if let Some(probe) = method.probe() {
            return self.probe(&probe, injection, batches, &mut loss);
        }
        if !needs.any() {
            return Ok(Calibration::default());
        }
        let layers: Vec<String> = plan
            .layers
            .iter()
            .map(|(layer, _)| layer.path.clone())
            .collect();
        self.statistics(&layers, needs, batches, loss)
    }

    /// Runs the model over batches, all adapters off, and returns these statistics of these layers.
    /// `loss` is as for [`calibrate`](Self::calibrate). Gradients are those of a batch's loss: of single
    /// examples where each is a batch of its own.
    ///
    /// # Errors
    /// A layer that no batch reached, no batch, or a device without gradients where they are needed.
    pub fn statistics<B>(
        &mut self,
        layers: &[String],
        needs: Needs,
        batches: impl IntoIterator<Item = B>,
        mut loss: impl FnMut(&Self, B) -> Tensor<1>,
    ) -> Result<Calibration> {
        self.each_slot(|path, slot| {
            if let Slot::Linear(linear) = slot {
                linear.locate(path);
            }
        });
        // An attached adapter is the only active one: it starts from the base model, also where
        // another adapter computes with a base of its own now.
        let was_disabled = self.disabled;
        self.disable(true);
        let observer = Arc::new(Observer::new(needs, layers.iter().cloned()));
        if needs.inputs() {
            self.observer = Some(observer.clone());
        }
        let frozen = self.frozen_weights(layers);
        if needs.gradients() {
            let weights = layers.iter().map(|layer| format!("{layer}.weight"));
            self.refuse_quantised(&weights.collect::<Vec<_>>())?;
            self.train_weights(&frozen, true);
        }
        let mut seen = 0;
        let mut gradients = Calibration::default();
        let shapes = self.weight_shapes(layers);
        for batch in batches {
            seen += 1;
            let loss = loss(self, batch);
            if needs.gradients() {
                let found = Gradients::backward(&loss, &self.model);
                for (layer, weight) in layers.iter().zip(&shapes) {
                    if let Some(gradient) = found.get(&format!("{layer}.weight")) {
                        let gradient = Tensor::from_inner(gradient.clone()).reshape(*weight);
                        gradients.entry(layer).see_gradient(needs, gradient);
                    }
                }
            }
        }
        if needs.gradients() {
            self.train_weights(&frozen, false);
        }
        self.observer = None;
        self.disable(was_disabled);
        let mut calibration = observer.take();
        for layer in layers {
            let statistics = calibration.entry(layer);
            statistics.batches = seen;
            if let Some(found) = gradients.get(layer) {
                statistics.gradient = found.gradient.clone();
                statistics.squared_gradient = found.squared_gradient.clone();
            }
            let reached = (!needs.inputs() || statistics.tokens > 0)
                && (!needs.gradients() || gradients.get(layer).is_some());
            if !reached {
                return Err(Error::Unsupported(format!(
                    "{layer}: none of {seen} calibration batches reached this layer"
                )));
            }
        }
        Ok(calibration)
    }

    /// Those of the layers' weights that are frozen now.
    fn frozen_weights(&self, layers: &[String]) -> Vec<String> {
        params::list(&self.model)
            .into_iter()
            .filter(|param| !param.trained)
            .map(|param| param.path)
            .filter(|path| {
                path.strip_suffix(".weight")
                    .is_some_and(|layer| layers.iter().any(|chosen| chosen == layer))
            })
            .collect()
    }

    /// Refuses to train, or to differentiate by, weights that are quantised.
    pub(crate) fn refuse_quantised(&mut self, params: &[String]) -> Result<()> {
        let mut found = None;
        self.each_slot(|path, slot| {
            if let Slot::Linear(linear) = slot
                && linear.weight.as_quantised().is_some()
                && params.contains(&format!("{path}.weight"))
            {
                found.get_or_insert_with(|| path.to_owned());
            }
        });
        match found {
            None => Ok(()),
            Some(path) => Err(Error::Unsupported(format!(
                "{path}: its weight is quantised and has no gradient; load the model in full \
                 precision, or choose a method that leaves weights frozen"
            ))),
        }
    }

    fn train_weights(&mut self, paths: &[String], trained: bool) {
        self.model = params::set_trained(self.model.clone(), |path| {
            paths.iter().any(|chosen| chosen == path).then_some(trained)
        });
    }

    fn weight_shapes(&mut self, layers: &[String]) -> Vec<[usize; 2]> {
        let mut shapes = vec![[0, 0]; layers.len()];
        self.each_slot(|path, slot| {
            if let (Slot::Linear(linear), Some(index)) =
                (slot, layers.iter().position(|layer| layer == path))
            {
                shapes[index] = linear.weight.dims();
            }
        });
        shapes
    }
}
