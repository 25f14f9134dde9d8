//! Switching an adapted model between its adapters, and back to the base.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use crate::adaptable::{Adaptable, Slot};
use crate::adapted::{Adapted, Held};
use crate::ctx::RowChoice;
use crate::error::Result;
use crate::params;
use crate::set::Composition;

impl<M: Adaptable> Adapted<M> {
    /// Makes exactly these adapters active, acting together as `composition` says. Parameters of
    /// the model that an adapter selected take the adapter's values while it is active and their
    /// original ones otherwise; where several active adapters selected one parameter, the last
    /// named wins.
    ///
    /// # Errors
    /// If one of them is not attached, or a merged model: nothing is switched.
    pub fn activate(&mut self, names: &[&str], composition: Composition) -> Result<()> {
        self.refuse_while_merged()?;
        let live = names
            .iter()
            .map(|name| self.index(name))
            .collect::<Result<Vec<_>>>()?;
        if self.disabled {
            self.suspended = live;
        } else {
            self.park();
            live.into_iter().for_each(|index| self.unpark(index));
        }
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.each_slot(|_, slot| match slot {
            Slot::Linear(linear) => linear.adapters.activate(&names, composition),
            Slot::Site(site) => site.adapters.activate(&names, composition),
        });
        Ok(())
    }

    /// A choice of adapter per batch row for [`Ctx::with_rows`](crate::Ctx::with_rows), each name
    /// checked; `None` is the base model.
    ///
    /// # Errors
    /// If one of them is not attached.
    pub fn rows(&self, names: &[Option<&str>]) -> Result<RowChoice> {
        for name in names.iter().flatten() {
            self.index(name)?;
        }
        Ok(RowChoice::new(
            names.iter().map(|name| name.map(str::to_owned)).collect(),
        ))
    }

    /// Turns all adapters off, or those that were active on again. Off, the model computes what
    /// it computed before anything was attached; merged adapters are unmerged for that.
    pub fn disable(&mut self, disabled: bool) {
        if disabled == self.disabled {
            return;
        }
        self.disabled = disabled;
        self.unmerge();
        self.each_slot(|_, slot| match slot {
            Slot::Linear(linear) => linear.adapters.disable(disabled),
            Slot::Site(site) => site.adapters.disable(disabled),
        });
        if disabled {
            self.suspended = self.live.clone();
            self.park();
        } else {
            let live = std::mem::take(&mut self.suspended);
            live.into_iter().for_each(|index| self.unpark(index));
        }
    }

    /// Takes an adapter out. What it selected has its original values again, frozen.
    ///
    /// # Errors
    /// If there is no adapter of that name.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.disable(false);
        self.unmerge();
        let live = self.live.clone();
        self.park();
        let held = self.held.remove(index);
        for other in live.into_iter().filter(|other| *other != index) {
            // Positions behind the removed one moved up.
            self.unpark(other - usize::from(other > index));
        }
        self.each_slot(|_, slot| match slot {
            Slot::Linear(linear) => linear.remove(name),
            Slot::Site(site) => drop(site.adapters.remove(name)),
        });
        self.bank.shrink(name);
        // Another adapter may train the same parameters, the head for one.
        let released: Vec<String> = held
            .attachment
            .params
            .into_iter()
            .filter(|path| !self.attachments().any(|other| other.params.contains(path)))
            .collect();
        self.select(&released, false);
        Ok(())
    }

    /// Sets whether these parameters of the model are trained.
    pub(crate) fn select(&mut self, paths: &[String], trained: bool) {
        if !paths.is_empty() {
            self.model = params::set_trained(self.model.clone(), |path| {
                paths.iter().any(|chosen| chosen == path).then_some(trained)
            });
        }
    }

    /// Takes every adapter's selected values out of the model; the originals take their places.
    fn park(&mut self) {
        let live = std::mem::take(&mut self.live);
        for &index in &live {
            let own = self.values_in_model(index);
            self.held[index].parked.extend(own);
        }
        for index in live {
            let original = self.held[index].original.clone();
            self.model = params::write(self.model.clone(), original);
        }
    }

    /// Puts an adapter's selected values into the model. Values of the same parameters that belong
    /// to adapters put there before it are parked.
    fn unpark(&mut self, index: usize) {
        let own = std::mem::take(&mut self.held[index].parked);
        for other in self.live.clone() {
            let mut covered = self.values_in_model(other);
            covered.retain(|path, _| own.contains_key(path));
            self.held[other].parked.extend(covered);
        }
        self.model = params::write(self.model.clone(), own);
        self.live.push(index);
    }

    /// The selected values of an adapter that are in the model, not parked.
    pub(crate) fn values_in_model(&self, index: usize) -> BTreeMap<String, TensorData> {
        let Held {
            attachment, parked, ..
        } = &self.held[index];
        params::read(&self.model, |path| {
            attachment.params.iter().any(|chosen| chosen == path) && !parked.contains_key(path)
        })
    }
}
