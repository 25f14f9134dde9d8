//! Switching an adapted model between its adapters, and back to the base.

use crate::adaptable::{Adaptable, Slot};
use crate::adapted::Adapted;
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
        self.park();
        for index in live {
            self.unpark(index);
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
            self.suspended = (0..self.held.len())
                .filter(|index| self.held[*index].parked.is_none())
                .collect();
            self.park();
        } else {
            for index in std::mem::take(&mut self.suspended) {
                self.unpark(index);
            }
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
        if self.held[index].parked.is_none() {
            self.restore_original(index);
        }
        let held = self.held.remove(index);
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

    /// Takes every adapter's selected values out of the model, the latest first.
    fn park(&mut self) {
        for index in (0..self.held.len()).rev() {
            if self.held[index].parked.is_none() {
                let selected = &self.held[index].attachment.params;
                let own = params::read(&self.model, |path| {
                    selected.iter().any(|chosen| chosen == path)
                });
                self.restore_original(index);
                self.held[index].parked = Some(own);
            }
        }
    }

    /// Puts an adapter's selected values into the model.
    fn unpark(&mut self, index: usize) {
        if let Some(own) = self.held[index].parked.take() {
            self.model = params::write(self.model.clone(), own);
        }
    }

    fn restore_original(&mut self, index: usize) {
        let original = self.held[index].original.clone();
        self.model = params::write(self.model.clone(), original);
    }
}
