//! Site adapters whose structure changes while they train: [`crate::Evolve`], without a frozen layer.

use std::collections::BTreeMap;
use std::fmt;

use crate::adaptable::{Adaptable, Slot};
use crate::adapted::Adapted;
use crate::any_site::AnySite;
use crate::error::Result;
use crate::evolve::{Reset, Time};
use crate::gradients::Gradients;
use crate::site::{SiteAdapter, SiteGraft};

/// A site adapter whose structure changes while it trains.
pub trait EvolveSites: SiteGraft {
    /// Changes the structure after an update, at all sites together.
    ///
    /// # Errors
    /// When linear algebra fails.
    fn evolve(&self, time: Time, sites: &mut [EvolvingSite<'_, Self::Adapter>]) -> Result<()>;

    /// Numbers that describe the present structure at a site, for reports.
    fn report(&self, adapter: &Self::Adapter) -> Vec<(&'static str, f64)> {
        let _ = adapter;
        Vec::new()
    }
}

/// A site as [`EvolveSites::evolve`] sees it.
#[derive(Debug)]
pub struct EvolvingSite<'a, A> {
    /// Path of the site.
    pub path: &'a str,
    adapter: A,
    changed: bool,
    prefix: String,
    gradients: &'a Gradients,
    resets: Vec<Reset>,
}

impl<A> EvolvingSite<'_, A> {
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
    pub fn gradient(&self, field: &str) -> Option<&burn::tensor::Tensor<1>> {
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

/// [`EvolveSites`] without its type.
pub trait DynEvolveSites: fmt::Debug + Send + Sync {
    /// See [`EvolveSites::evolve`].
    ///
    /// # Errors
    /// As the method's own.
    fn evolve(&self, time: Time, sites: &mut [EvolvingSite<'_, AnySite>]) -> Result<()>;
    /// See [`EvolveSites::report`].
    fn report(&self, adapter: &AnySite) -> Vec<(&'static str, f64)>;
}

fn typed<A: SiteAdapter>(adapter: &AnySite) -> &A {
    adapter
        .downcast_ref()
        .expect("a method evolves the adapters that it made")
}

impl<S: EvolveSites> DynEvolveSites for S {
    fn evolve(&self, time: Time, sites: &mut [EvolvingSite<'_, AnySite>]) -> Result<()> {
        let mut own: Vec<EvolvingSite<'_, S::Adapter>> = sites
            .iter()
            .map(|site| EvolvingSite {
                path: site.path,
                adapter: typed::<S::Adapter>(&site.adapter).clone(),
                changed: false,
                prefix: site.prefix.clone(),
                gradients: site.gradients,
                resets: Vec::new(),
            })
            .collect();
        EvolveSites::evolve(self, time, &mut own)?;
        for (site, own) in sites.iter_mut().zip(own) {
            if own.changed {
                site.adapter = AnySite::new(own.adapter);
                site.changed = true;
            }
            site.resets = own.resets;
        }
        Ok(())
    }

    fn report(&self, adapter: &AnySite) -> Vec<(&'static str, f64)> {
        EvolveSites::report(self, typed(adapter))
    }
}

impl<M: Adaptable> Adapted<M> {
    /// Lets the site adapters called `name` change after an update.
    pub(crate) fn evolve_sites(
        &mut self,
        name: &str,
        evolve: &dyn DynEvolveSites,
        time: Time,
        gradients: &Gradients,
    ) -> Result<Vec<Reset>> {
        let found = self.sites_of(name);
        let mut sites: Vec<EvolvingSite<'_, AnySite>> = found
            .iter()
            .map(|(path, adapter)| EvolvingSite {
                path,
                adapter: adapter.clone(),
                changed: false,
                prefix: format!("model.{path}.adapters.{name}."),
                gradients,
                resets: Vec::new(),
            })
            .collect();
        evolve.evolve(time, &mut sites)?;
        let mut resets = Vec::new();
        let mut changed = BTreeMap::new();
        for site in sites {
            resets.extend(site.resets);
            if site.changed {
                changed.insert(site.path.to_owned(), site.adapter);
            }
        }
        self.each_slot(|path, slot| {
            if let Slot::Site(site) = slot
                && let Some(adapter) = changed.remove(path)
            {
                site.adapters.replace(name, adapter);
            }
        });
        Ok(resets)
    }

    /// The site adapters called `name` with their paths, in forward order.
    pub(crate) fn sites_of(&mut self, name: &str) -> Vec<(String, AnySite)> {
        let mut found = Vec::new();
        self.each_slot(|path, slot| {
            if let Slot::Site(site) = slot
                && let Ok(adapter) = site.adapters.get(name)
            {
                found.push((path.to_owned(), adapter.clone()));
            }
        });
        found
    }
}
