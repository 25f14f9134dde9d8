//! Switching an adapted model between its adapters, and back to the base.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::TensorData;

use crate::adaptable::{Adaptable, Slot, Slots};
use crate::adapted::{Adapted, Held};
use crate::ctx::{Ctx, Mode};
use crate::error::{Error, Result};
use crate::params;
use crate::rows::RowChoice;
use crate::set::Composition;
use crate::setup::Setup;
use crate::shape::SiteKind;

impl<M: Adaptable> Adapted<M> {
    /// Makes exactly these adapters active, acting together as `composition` says. Parameters of
    /// the model that an adapter selected take the adapter's values while it is active and their
    /// original ones otherwise; where several active adapters selected one parameter, the last
    /// named wins.
    ///
    /// # Errors
    /// If one of them is not attached, or a merged model; a stack of which an adapter below the top
    /// has no weight form on some layer. Nothing is switched then.
    pub fn activate(&mut self, names: &[&str], composition: Composition) -> Result<()> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.compose(&Setup::of_names(&names, composition))
    }

    /// [`activate`](Self::activate) for any composition.
    ///
    /// # Errors
    /// As [`activate`](Self::activate); a composition that makes no sense, or that a layer or site
    /// where one of its adapters is cannot follow.
    pub fn compose(&mut self, setup: &Setup) -> Result<()> {
        self.refuse_while_merged()?;
        setup.check()?;
        let live = setup
            .names()
            .into_iter()
            .map(|name| self.index(name))
            .collect::<Result<Vec<_>>>()?;
        self.check_composition(setup)?;
        if self.disabled {
            self.suspended = live;
        } else {
            self.park();
            self.unpark(live);
        }
        let setup = Arc::new(setup.clone());
        self.each_slot(|_, slot| match slot {
            Slot::Linear(linear) => linear.adapters.activate(setup.clone()),
            Slot::Site(site) => site.adapters.activate(setup.clone()),
        });
        Ok(())
    }

    /// Whether every layer and site can follow a composition.
    fn check_composition(&mut self, setup: &Setup) -> Result<()> {
        let plain = |setup: &Setup| matches!(setup, Setup::Adapter(_));
        if plain(setup) {
            return Ok(());
        }
        let kinds: BTreeMap<String, SiteKind> = self
            .model
            .shapes()
            .sites
            .into_iter()
            .map(|site| (site.path, site.kind))
            .collect();
        let Self {
            model, bank, held, ..
        } = self;
        let lengthens = |name: &str| held.get(name).is_some_and(|held| held.lengthens);
        let ctx = Ctx::new(bank, Mode::Eval);
        let mut outcome = Ok(());
        let mut check = |path: &str, slot: Slot<'_>| {
            if outcome.is_err() {
                return;
            }
            outcome = match slot {
                Slot::Linear(linear) => linear.check_setup(path, setup, &ctx),
                Slot::Site(site) => match kinds.get(path) {
                    Some(SiteKind::Sublayer | SiteKind::Hidden) => site.check_setup(path, setup),
                    kind => site.check_in_order(setup, lengthens).map_err(|found| {
                        Error::Unsupported(format!(
                            "{path}: {found}, but a site of kind {} takes names, a sum or a stack \
                             of names; for rows of different adapters see `Ctx::with_rows`",
                            kind.map_or_else(String::new, |kind| format!("{kind:?}"))
                        ))
                    }),
                },
            };
        };
        model.slots(&mut Slots::new(&mut check));
        outcome
    }

    /// A choice of adapter per batch row for [`Ctx::with_rows`](crate::Ctx::with_rows), each name
    /// checked; `None` is the base model.
    ///
    /// # Errors
    /// If one of them is not attached, or makes sequences longer: then all rows must have it, and
    /// [`activate`](Self::activate) does that.
    pub fn rows(&self, names: &[Option<&str>]) -> Result<RowChoice> {
        for name in names.iter().flatten() {
            if self.held[self.index(name)?].lengthens {
                return Err(Error::Unsupported(format!(
                    "adapter `{name}` makes sequences longer, so that the rows of a batch cannot differ in it: activate it for a batch of its own"
                )));
            }
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
            self.unpark(live);
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
        let held = self.held.remove(name).expect("it has a position");
        // Positions behind the removed one moved up.
        let others = live.into_iter().filter(|other| *other != index);
        self.unpark(
            others
                .map(|other| other - usize::from(other > index))
                .collect(),
        );
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

    /// Stops the training of an adapter: what else is trained (a fusion, an adapter above it in a
    /// stack) leaves it as it is. Parameters of the model that it selected are frozen too.
    ///
    /// # Errors
    /// If there is no adapter of that name.
    pub fn freeze(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let selected = self.held[index].attachment.params.clone();
        let (inside, entries) = (format!(".adapters.{name}."), format!("trained.{name}/"));
        self.model = params::set_trained(self.model.clone(), |path| {
            let own = path.contains(&inside) || selected.iter().any(|chosen| chosen == path);
            own.then_some(false)
        });
        self.bank = params::set_trained(self.bank.clone(), |path| {
            path.starts_with(&entries).then_some(false)
        });
        Ok(())
    }

    /// Sets whether these parameters of the model are trained.
    pub(crate) fn select(&mut self, paths: &[String], trained: bool) {
        if paths.is_empty() {
            return;
        }
        self.with_aside(None, |bare| {
            bare.model = params::set_trained(bare.model.clone(), |path| {
                paths.iter().any(|chosen| chosen == path).then_some(trained)
            });
        });
    }

    /// The values of these parameters of the model.
    pub(crate) fn values_of(&mut self, paths: &[String]) -> BTreeMap<String, TensorData> {
        if paths.is_empty() {
            return BTreeMap::new();
        }
        self.with_aside(None, |bare| {
            params::read(&bare.model, |path| {
                paths.iter().any(|chosen| chosen == path)
            })
        })
    }

    /// Whether an adapter of these positions selected parameters of the model.
    fn selects(&self, positions: &[usize]) -> bool {
        let selected = |&index: &usize| !self.held[index].attachment.params.is_empty();
        positions.iter().any(selected)
    }

    /// Takes every adapter's selected values out of the model; the originals take their places.
    fn park(&mut self) {
        let live = std::mem::take(&mut self.live);
        if !self.selects(&live) {
            return;
        }
        self.with_aside(None, |bare| {
            for &index in &live {
                let own = bare.values_in_model(index);
                bare.held[index].parked.extend(own);
            }
            for index in live {
                let original = bare.held[index].original.clone();
                bare.model = params::write(bare.model.clone(), original);
            }
        });
    }

    /// Puts the selected values of these adapters into the model, one after the other. Values of
    /// the same parameters that belong to adapters put there before are parked.
    pub(crate) fn unpark(&mut self, positions: Vec<usize>) {
        if !self.selects(&positions) {
            self.live.extend(positions);
            return;
        }
        self.with_aside(None, |bare| {
            for index in positions {
                let own = std::mem::take(&mut bare.held[index].parked);
                for other in bare.live.clone() {
                    let mut covered = bare.values_in_model(other);
                    covered.retain(|path, _| own.contains_key(path));
                    bare.held[other].parked.extend(covered);
                }
                bare.model = params::write(bare.model.clone(), own);
                bare.live.push(index);
            }
        });
    }

    /// The selected values of an adapter that are in the model, not parked.
    pub(crate) fn values_in_model(&self, index: usize) -> BTreeMap<String, TensorData> {
        let Held {
            attachment, parked, ..
        } = &self.held[index];
        if attachment.params.is_empty() {
            return BTreeMap::new();
        }
        params::read(&self.model, |path| {
            attachment.params.iter().any(|chosen| chosen == path) && !parked.contains_key(path)
        })
    }
}
