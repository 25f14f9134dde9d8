//! The kinds that a method consists of.

use std::sync::Arc;

use crate::adapter::Graft;
use crate::evolve::{DynEvolve, Evolve};
use crate::evolve_sites::{DynEvolveSites, EvolveSites};
use crate::method::{DynGraft, DynSiteGraft};
use crate::model_graft::ModelGraft;
use crate::selection::Selection;
use crate::site::SiteGraft;

/// The kinds a method consists of: one, or several for a composition.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// Adapters on layers.
    pub graft: Option<Arc<dyn DynGraft>>,
    /// Adapters at sites.
    pub site: Option<Arc<dyn DynSiteGraft>>,
    /// Trained parameters of the model itself.
    pub selection: Option<Arc<dyn Selection>>,
    /// Adapters coupled across layers.
    pub model: Option<Arc<dyn ModelGraft>>,
    /// What changes the adapters' structure while they train.
    pub evolve: Option<Arc<dyn DynEvolve>>,
    /// The same at sites.
    pub evolve_sites: Option<Arc<dyn DynEvolveSites>>,
}

impl Parts {
    /// An adapter on each targeted layer.
    pub fn graft(graft: impl Graft) -> Self {
        Self {
            graft: Some(Arc::new(graft)),
            ..Self::default()
        }
    }

    /// An adapter on each targeted layer, whose structure changes while it trains.
    pub fn evolving(graft: impl Evolve) -> Self {
        Self {
            evolve: Some(Arc::new(graft.clone())),
            ..Self::graft(graft)
        }
    }

    /// An adapter at each targeted site.
    pub fn site(site: impl SiteGraft) -> Self {
        Self {
            site: Some(Arc::new(site)),
            ..Self::default()
        }
    }

    /// An adapter at each targeted site, whose structure changes while it trains.
    pub fn evolving_site(site: impl EvolveSites) -> Self {
        Self {
            evolve_sites: Some(Arc::new(site.clone())),
            ..Self::site(site)
        }
    }

    /// Trained parameters of the model itself.
    pub fn selection(selection: impl Selection) -> Self {
        Self {
            selection: Some(Arc::new(selection)),
            ..Self::default()
        }
    }

    /// Adapters coupled across layers.
    pub fn model(model: impl ModelGraft) -> Self {
        Self {
            model: Some(Arc::new(model)),
            ..Self::default()
        }
    }

    /// The parts of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            graft: self.graft.or(other.graft),
            site: self.site.or(other.site),
            selection: self.selection.or(other.selection),
            model: self.model.or(other.model),
            evolve: self.evolve.or(other.evolve),
            evolve_sites: self.evolve_sites.or(other.evolve_sites),
        }
    }
}
