//! Methods whose structure changes while they train.
//!
//! Ranks that grow or shrink, entries that are dropped and regrown, blocks that move: all of it is
//! one function, [`Evolve::evolve`], called after each update with the gradients of that update. What a
//! method remembers between steps are parameters of its adapter that are not trained, so that
//! checkpoints carry them; those in a field called `state` are for training only and not part of
//! an adapter file.

use std::collections::BTreeMap;
use std::fmt;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::adaptable::{Adaptable, Slot, Slots};
use crate::adapted::Adapted;
use crate::adapter::{Adapter, AnyAdapter, Graft};
use crate::base::FrozenBase;
use crate::ctx::Mode;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::params;

/// Where training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Updates made before this one.
    pub step: u64,
    /// Updates in all.
    pub total: u64,
}

/// Moments that an optimizer forgets, because the entries mean something else from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Path of the parameter.
    pub path: String,
    /// Positions in the flattened parameter; `None` is all of them.
    pub entries: Option<Vec<usize>>,
}

/// A graft whose structure changes while it trains.
pub trait Evolve: Graft {
    /// Whether the gradient of the frozen weight of the layer at this index, of `layers` in
    /// forward order, is wanted at this step. It costs a product of the size of the weight.
    fn wants(&self, time: Time, index: usize, layers: usize) -> bool {
        let _ = (time, index, layers);
        false
    }

    /// Changes the structure after an update.
    ///
    /// # Errors
    /// When linear algebra fails.
    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Self::Adapter>]) -> Result<()>;

    /// Numbers that describe the present structure of a layer, for reports: rank, entries.
    fn report(&self, adapter: &Self::Adapter) -> Vec<(&'static str, f64)> {
        let _ = adapter;
        Vec::new()
    }
}

/// A layer as [`Evolve::evolve`] sees it.
#[derive(Debug)]
pub struct Evolving<'a, A> {
    /// Path of the layer.
    pub path: &'a str,
    /// Its frozen base.
    pub base: &'a FrozenBase,
    /// dL/dW of the frozen weight `[d_in, d_out]`, where it was [wanted](Evolve::wants).
    pub weight_gradient: Option<Tensor<2>>,
    adapter: A,
    changed: bool,
    prefix: String,
    gradients: &'a Gradients,
    resets: Vec<Reset>,
}

impl<A> Evolving<'_, A> {
    /// The adapter after the update.
    pub fn adapter(&self) -> &A {
        &self.adapter
    }

    /// The adapter, to be changed. New values keep what they replace trained or frozen.
    pub fn adapter_mut(&mut self) -> &mut A {
        self.changed = true;
        &mut self.adapter
    }

    /// The gradient of the adapter's parameter `field` in this update, after clipping, flattened.
    pub fn gradient(&self, field: &str) -> Option<&Tensor<1>> {
        self.gradients.get(&format!("{}{field}", self.prefix))
    }

    /// Makes the optimizer forget the moments of these entries of `field`; `None` is all.
    pub fn reset(&mut self, field: &str, entries: Option<Vec<usize>>) {
        self.resets.push(Reset {
            path: format!("{}{field}", self.prefix),
            entries,
        });
    }
}

/// [`Evolve`] without its type.
pub trait DynEvolve: fmt::Debug + Send + Sync {
    /// See [`Evolve::wants`].
    fn wants(&self, time: Time, index: usize, layers: usize) -> bool;
    /// See [`Evolve::evolve`].
    ///
    /// # Errors
    /// As the method's own.
    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, AnyAdapter>]) -> Result<()>;
    /// See [`Evolve::report`].
    fn report(&self, adapter: &AnyAdapter) -> Vec<(&'static str, f64)>;
}

fn typed<A: Adapter>(adapter: &AnyAdapter) -> &A {
    adapter
        .downcast()
        .expect("a method evolves the adapters that it made")
}

impl<G: Evolve> DynEvolve for G {
    fn wants(&self, time: Time, index: usize, layers: usize) -> bool {
        Evolve::wants(self, time, index, layers)
    }

    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, AnyAdapter>]) -> Result<()> {
        let mut own: Vec<Evolving<'_, G::Adapter>> = layers
            .iter()
            .map(|layer| Evolving {
                path: layer.path,
                base: layer.base,
                weight_gradient: layer.weight_gradient.clone(),
                adapter: typed::<G::Adapter>(&layer.adapter).clone(),
                changed: false,
                prefix: layer.prefix.clone(),
                gradients: layer.gradients,
                resets: Vec::new(),
            })
            .collect();
        Evolve::evolve(self, time, &mut own)?;
        for (layer, own) in layers.iter_mut().zip(own) {
            if own.changed {
                layer.adapter = AnyAdapter::new(own.adapter);
                layer.changed = true;
            }
            layer.resets = own.resets;
        }
        Ok(())
    }

    fn report(&self, adapter: &AnyAdapter) -> Vec<(&'static str, f64)> {
        Evolve::report(self, typed(adapter))
    }
}

/// A module as a training loop sees it.
pub trait Trained: Module {
    /// Frozen parameters, by path, whose gradient the next update is to compute as well. The module
    /// is in training state.
    fn wanted(&self, time: Time) -> Vec<String> {
        let _ = time;
        Vec::new()
    }

    /// What is added to the loss, `[1]`.
    fn penalty(&mut self, mode: Mode) -> Option<Tensor<1>> {
        let _ = mode;
        None
    }

    /// Called after each update with its gradients.
    ///
    /// # Errors
    /// As the methods' own.
    fn after_update(&mut self, time: Time, gradients: &Gradients) -> Result<Vec<Reset>> {
        let _ = (time, gradients);
        Ok(Vec::new())
    }

    /// Whether a parameter that is not trained changes all the same, so that a checkpoint of the
    /// run needs it.
    fn evolves(&self, path: &str) -> bool {
        let _ = path;
        false
    }
}

impl<M: Adaptable> Trained for Adapted<M> {
    fn wanted(&self, time: Time) -> Vec<String> {
        let mut wanted = Vec::new();
        for (_, held) in self.held.iter() {
            let Some(evolve) = &held.evolve else { continue };
            let layers = &held.attachment.layers;
            let chosen = layers
                .iter()
                .enumerate()
                .filter(|(index, _)| evolve.wants(time, *index, layers.len()));
            wanted.extend(chosen.map(|(_, path)| format!("model.{path}.weight")));
        }
        if wanted.is_empty() {
            return wanted;
        }
        let frozen = params::list_present(self);
        wanted.retain(|path| {
            frozen
                .iter()
                .any(|param| param.path == *path && !param.trained)
        });
        wanted
    }

    fn penalty(&mut self, mode: Mode) -> Option<Tensor<1>> {
        if !self.held.iter().any(|(_, held)| held.regularised) {
            return None;
        }
        let Self { model, bank, .. } = self;
        let ctx = crate::Ctx::new(bank, mode);
        let mut total: Option<Tensor<1>> = None;
        let mut add = |_: &str, slot: Slot<'_>| {
            if let Slot::Linear(linear) = slot
                && let Some(own) = linear.penalty(&ctx)
            {
                total = Some(match total.take() {
                    Some(total) => total + own,
                    None => own,
                });
            }
        };
        model.slots(&mut Slots::new(&mut add));
        total
    }

    fn after_update(&mut self, time: Time, gradients: &Gradients) -> Result<Vec<Reset>> {
        let mut resets = Vec::new();
        for index in 0..self.held.len() {
            let held = &self.held[index];
            if let Some(evolve) = held.evolve_sites.clone() {
                let name = held.attachment.name.clone();
                resets.extend(self.evolve_sites(&name, evolve.as_ref(), time, gradients)?);
            }
            let held = &self.held[index];
            let Some(evolve) = held.evolve.clone() else {
                continue;
            };
            let (name, paths) = (held.attachment.name.clone(), held.attachment.layers.clone());
            let mut found: BTreeMap<String, (FrozenBase, AnyAdapter)> = BTreeMap::new();
            self.each_slot(|path, slot| {
                if let Slot::Linear(linear) = slot
                    && let Ok(adapter) = linear.adapters.get(&name)
                {
                    found.insert(path.to_owned(), (linear.base(), adapter.clone()));
                }
            });
            let mut layers: Vec<Evolving<'_, AnyAdapter>> = paths
                .iter()
                .filter_map(|path| found.get_key_value(path))
                .map(|(path, (base, adapter))| Evolving {
                    path,
                    base,
                    weight_gradient: gradients.get(&format!("model.{path}.weight")).map(
                        |gradient| {
                            Tensor::from_inner(gradient.clone())
                                .reshape([base.d_in(), base.d_out()])
                        },
                    ),
                    adapter: adapter.clone(),
                    changed: false,
                    prefix: format!("model.{path}.adapters.{name}."),
                    gradients,
                    resets: Vec::new(),
                })
                .collect();
            evolve.evolve(time, &mut layers)?;
            let mut changed = BTreeMap::new();
            for layer in layers {
                resets.extend(layer.resets);
                if layer.changed {
                    changed.insert(layer.path.to_owned(), layer.adapter);
                }
            }
            self.each_slot(|path, slot| {
                if let Slot::Linear(linear) = slot
                    && let Some(adapter) = changed.remove(path)
                {
                    linear.replace(&name, adapter);
                }
            });
        }
        Ok(resets)
    }

    fn evolves(&self, path: &str) -> bool {
        self.held.iter().any(|(_, held)| {
            (held.evolve.is_some() || held.evolve_sites.is_some())
                && path.contains(&format!(".adapters.{}.", held.attachment.name))
        })
    }
}

impl<M: Adaptable> Adapted<M> {
    /// The present structure of an adapter whose structure changes, by layer.
    ///
    /// # Errors
    /// If there is no adapter of that name.
    pub fn structure(&mut self, name: &str) -> Result<BTreeMap<String, Vec<(&'static str, f64)>>> {
        let held = &self.held[self.index(name)?];
        let mut found = BTreeMap::new();
        if let Some(evolve) = held.evolve_sites.clone() {
            let sites = self.sites_of(name).into_iter();
            found.extend(sites.map(|(path, adapter)| (path, evolve.report(&adapter))));
        }
        let held = &self.held[self.index(name)?];
        if let Some(evolve) = held.evolve.clone() {
            self.each_slot(|path, slot| {
                if let Slot::Linear(linear) = slot
                    && let Ok(adapter) = linear.adapters.get(name)
                {
                    found.insert(path.to_owned(), evolve.report(adapter));
                }
            });
        }
        Ok(found)
    }
}
