//! A method: what is registered, configured and planned.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::adapter::{AnyAdapter, Graft, InitContext};
use crate::any_site::AnySite;
use crate::bank::BankSpec;
use crate::base::FrozenBase;
use crate::counts::Counts;
use crate::entry::MethodEntry;
use crate::error::{Error, Result};
use crate::meta::{AtInit, MethodMeta};
use crate::parts::Parts;
use crate::shape::{LayerShape, ModelShapes, SiteKind, SiteShape};
use crate::site::SiteGraft;
use crate::statistics::{Calibration, Needs};
use crate::targets::{Overrides, Targets};

/// A learning rate that a method asks for: the trained parameters called `field` (a field of the
/// adapter, or an entry of its bank) take `factor` times the run's learning rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// Name of the field or entry; the last part of the parameter's path.
    pub field: &'static str,
    /// Multiplies the learning rate.
    pub factor: f64,
}

/// The configuration of a method. One file per method implements this and the trait of its kind.
pub trait Method:
    Serialize + DeserializeOwned + Default + Clone + fmt::Debug + Send + Sync + 'static
{
    /// What the method declares about itself.
    const META: MethodMeta;

    /// The kinds it consists of.
    fn parts(&self) -> Parts;

    /// Whether the values make sense whatever the shape: the reason if not.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// Learning rates of its own; parameters that are not named take the run's.
    fn rates(&self) -> Vec<Rate> {
        Vec::new()
    }

    /// The layers it usually goes to in an architecture (the `model_type` of a Hugging Face
    /// configuration), taken where the injection includes nothing explicitly; `None` for every linear
    /// layer.
    fn usual_targets(architecture: &str) -> Option<Targets> {
        let _ = architecture;
        None
    }

    /// What the model computes before training under this configuration, where an option makes it
    /// something else than the declaration says.
    fn at_init(&self) -> AtInit {
        Self::META.at_init
    }

    /// Small configurations that a layer of this shape admits, for the contract suite; they cover
    /// the method's options. None where the shape is inadmissible.
    fn examples(layer: &LayerShape) -> Vec<Self> {
        let _ = layer;
        vec![Self::default()]
    }
}

/// A graft without its type.
pub trait DynGraft: fmt::Debug + Send + Sync {
    /// See [`Graft::admits`].
    fn admits(&self, layer: &LayerShape) -> Result<(), String>;
    /// See [`Graft::defaults`].
    fn defaults(&self, shapes: &ModelShapes) -> Option<Vec<String>>;
    /// See [`Graft::count`].
    fn count(&self, layer: &LayerShape) -> Counts;
    /// See [`Graft::banks`].
    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec>;
    /// See [`Graft::needs`].
    fn needs(&self) -> Needs;
    /// See [`Graft::allocate`].
    fn allocate(
        &self,
        layers: &[(LayerShape, Value)],
        calibration: &Calibration,
    ) -> Result<Vec<Option<Overrides>>>;
    /// See [`Graft::init`].
    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<AnyAdapter>;
}

impl<G: Graft> DynGraft for G {
    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        Graft::admits(self, layer)
    }
    fn defaults(&self, shapes: &ModelShapes) -> Option<Vec<String>> {
        Graft::defaults(self, shapes)
    }
    fn count(&self, layer: &LayerShape) -> Counts {
        Graft::count(self, layer)
    }
    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        Graft::banks(self, layers)
    }
    fn needs(&self) -> Needs {
        Graft::needs(self)
    }
    fn allocate(
        &self,
        layers: &[(LayerShape, Value)],
        calibration: &Calibration,
    ) -> Result<Vec<Option<Overrides>>> {
        Graft::allocate(self, layers, calibration)
    }
    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<AnyAdapter> {
        Graft::init(self, base, ctx).map(AnyAdapter::new)
    }
}

/// A site adapter's configuration without its type.
pub trait DynSiteGraft: fmt::Debug + Send + Sync {
    /// See [`SiteGraft::SITES`].
    fn kinds(&self) -> &'static [SiteKind];
    /// Whether it acts there by default.
    fn takes(&self, site: &SiteShape) -> bool;
    /// See [`SiteGraft::default_sites`]; paths, sites of other kinds left out.
    fn default_sites<'a>(&self, sites: &[&'a SiteShape]) -> Vec<&'a str>;
    /// See [`SiteGraft::admits`]; a site of another kind is not admitted.
    fn admits(&self, site: &SiteShape) -> Result<(), String>;
    /// See [`SiteGraft::count`].
    fn count(&self, site: &SiteShape) -> Counts;
    /// See [`SiteGraft::probe`].
    fn probe(&self) -> Option<AnyMethod>;
    /// See [`SiteGraft::banks`].
    fn banks(&self, sites: &[SiteShape]) -> Vec<BankSpec>;
    /// See [`SiteGraft::init`].
    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<AnySite>;
}

impl<S: SiteGraft> DynSiteGraft for S {
    fn kinds(&self) -> &'static [SiteKind] {
        S::SITES
    }
    fn takes(&self, site: &SiteShape) -> bool {
        S::SITES.contains(&site.kind) && SiteGraft::takes(self, site)
    }
    fn default_sites<'a>(&self, sites: &[&'a SiteShape]) -> Vec<&'a str> {
        let own = sites.iter().copied();
        let own: Vec<_> = own.filter(|site| DynSiteGraft::takes(self, site)).collect();
        let chosen = SiteGraft::default_sites(self, own);
        chosen.into_iter().map(|site| site.path.as_str()).collect()
    }
    fn admits(&self, site: &SiteShape) -> Result<(), String> {
        if !S::SITES.contains(&site.kind) {
            return Err(format!(
                "a site of kind {:?}; expected one of {:?}",
                site.kind,
                S::SITES
            ));
        }
        SiteGraft::admits(self, site)
    }
    fn count(&self, site: &SiteShape) -> Counts {
        SiteGraft::count(self, site)
    }
    fn probe(&self) -> Option<AnyMethod> {
        SiteGraft::probe(self)
    }
    fn banks(&self, sites: &[SiteShape]) -> Vec<BankSpec> {
        SiteGraft::banks(self, sites)
    }
    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<AnySite> {
        SiteGraft::init(self, site, ctx).map(AnySite::new)
    }
}

/// A configured method of any type.
#[derive(Debug, Clone)]
pub struct AnyMethod {
    meta: &'static MethodMeta,
    config: Value,
    parts: Parts,
    rates: Vec<Rate>,
    at_init: AtInit,
    entry: MethodEntry,
}

impl AnyMethod {
    /// A configured method from its typed configuration.
    ///
    /// # Errors
    /// If the values make no sense whatever the shape.
    pub fn new<C: Method>(config: &C) -> Result<Self> {
        config.validate().map_err(|reason| Error::BadConfig {
            what: C::META.id.to_owned(),
            reason,
        })?;
        let entry = MethodEntry::of::<C>();
        Ok(Self {
            meta: entry.meta,
            config: serde_json::to_value(config).expect("plain data"),
            parts: config.parts(),
            rates: config.rates(),
            at_init: config.at_init(),
            entry,
        })
    }

    /// Its declaration.
    pub fn meta(&self) -> &'static MethodMeta {
        self.meta
    }

    /// Its configuration, every key written out.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The kinds it consists of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The learning rates it asks for; see [`Method::rates`].
    pub fn rates(&self) -> &[Rate] {
        &self.rates
    }

    /// What the model computes before training; see [`Method::at_init`].
    pub fn at_init(&self) -> AtInit {
        self.at_init
    }

    /// The targets in a model: those given, or the usual ones of its architecture.
    pub(crate) fn targets_in(&self, shapes: &ModelShapes, given: &Targets) -> Targets {
        let architecture = shapes.architecture.as_deref();
        given.or(architecture.and_then(self.entry.usual_targets))
    }

    /// What its initialiser wants to know from data.
    pub fn needs(&self) -> Needs {
        let graft = self.parts.graft.as_ref().map(|graft| graft.needs());
        let model = self.parts.model.as_ref().map(|model| model.needs());
        graft.unwrap_or_default().and(model.unwrap_or_default())
    }

    /// The method whose gradients its initialiser at sites wants to know; see [`SiteGraft::probe`].
    pub fn probe(&self) -> Option<AnyMethod> {
        self.parts.site.as_ref().and_then(|site| site.probe())
    }

    /// The method with a layer's own configuration keys.
    ///
    /// # Errors
    /// If the method has no such key.
    pub fn with(&self, overrides: Overrides) -> Result<Self> {
        if overrides.is_empty() {
            return Ok(self.clone());
        }
        let mut config = self.config.clone();
        config
            .as_object_mut()
            .expect("configurations are tables")
            .extend(overrides);
        self.entry.parse(&config)
    }

    /// The error for a layer that the method does not fit.
    pub(crate) fn inadmissible(&self, layer: &LayerShape, reason: String) -> Error {
        Error::Inadmissible {
            method: self.meta.id.to_owned(),
            path: layer.path.clone(),
            d_in: layer.d_in,
            d_out: layer.d_out,
            reason,
        }
    }
}
