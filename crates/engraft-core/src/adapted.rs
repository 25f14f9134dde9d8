//! A model and what was grafted onto it.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::TensorData;
use engraft_tensor::suggestion;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::adaptable::{Adaptable, Slot, Slots};
use crate::bank::Bank;
use crate::counts::Counts;
use crate::ctx::{Ctx, Mode};
use crate::error::{Error, Result};
use crate::evolve::DynEvolve;
use crate::evolve_sites::DynEvolveSites;
use crate::method::AnyMethod;
use crate::named::Named;
use crate::params::{self, Found};
use crate::plan::Plan;
use crate::set::{Composition, unknown_adapter};
use crate::statistics::{Calibration, Observer};
use crate::targets::Targets;
#[cfg(doc)]
use crate::token_rows::TokenRows;

/// How a method is attached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Injection {
    /// Layers and sites.
    #[serde(default)]
    pub targets: Targets,
    /// Seed of all random draws.
    #[serde(default)]
    pub seed: u64,
    /// Whether the task head is trained along.
    #[serde(default)]
    pub train_head: bool,
    /// Parameters of the model, by exact path, that are trained along.
    #[serde(default)]
    pub train_also: Vec<String>,
    /// Tokens that are trained along, by the path of their embedding; see [`TokenRows`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub train_tokens: BTreeMap<String, Vec<usize>>,
}

impl Injection {
    /// Default targets, frozen head.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// The same with these targets.
    pub fn targets(self, targets: Targets) -> Self {
        Self { targets, ..self }
    }

    /// The same with these parameters of the model trained along.
    pub fn with_params(self, paths: Vec<String>) -> Self {
        Self {
            train_also: paths,
            ..self
        }
    }

    /// The same with the task head trained along.
    pub fn with_head(self) -> Self {
        Self {
            train_head: true,
            ..self
        }
    }
}

/// What was attached, and where: enough to attach it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Attachment {
    /// Name of the adapter.
    pub name: String,
    /// Id of the method.
    pub method: String,
    /// Its configuration.
    pub config: Value,
    /// How it was attached.
    pub injection: Injection,
    /// Adapted layers.
    pub layers: Vec<String>,
    /// Adapted sites.
    pub sites: Vec<String>,
    /// Trained parameters of the model itself.
    pub params: Vec<String>,
}

/// A model with its adapters and their bank.
#[derive(Module, Debug)]
pub struct Adapted<M: Module> {
    /// The model; its own parameters are frozen unless an attachment selects them.
    pub model: M,
    /// State shared between layers.
    pub bank: Bank,
    #[module(skip)]
    pub(crate) held: Named<Held>,
    #[module(skip)]
    pub(crate) disabled: bool,
    /// Positions of the adapters whose selected values are in the model, in order of activation;
    /// where two selected one parameter, the later one's value is there.
    #[module(skip)]
    pub(crate) live: Vec<usize>,
    /// What `live` was when the model was disabled.
    #[module(skip)]
    pub(crate) suspended: Vec<usize>,
    /// Who looks at the layers' inputs, during calibration.
    #[module(skip)]
    pub(crate) observer: Option<Arc<Observer>>,
}

/// An attachment as the model holds it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) attachment: Attachment,
    pub(crate) counts: Counts,
    /// What changes its structure while it trains.
    pub(crate) evolve: Option<Arc<dyn DynEvolve>>,
    /// The same at sites.
    pub(crate) evolve_sites: Option<Arc<dyn DynEvolveSites>>,
    /// Whether it adds a penalty to the loss.
    pub(crate) regularised: bool,
    /// Whether it makes sequences or their keys longer.
    pub(crate) lengthens: bool,
    /// The selected parameters before the adapter.
    pub(crate) original: BTreeMap<String, TensorData>,
    /// The adapter's own values of those that are not in the model now.
    pub(crate) parked: BTreeMap<String, TensorData>,
}

impl<M: Adaptable> Adapted<M> {
    /// Takes a model over and freezes it.
    pub fn new(model: M) -> Self {
        let model = params::set_trained(model, |_| Some(false));
        Self {
            model,
            bank: Bank::default(),
            held: Named::default(),
            disabled: false,
            live: Vec::new(),
            suspended: Vec::new(),
            observer: None,
        }
    }

    /// Attaches a method under a name and makes it the active adapter; a model that was
    /// [disabled](Self::disable) is enabled again.
    ///
    /// # Errors
    /// A name that is taken, targets that match nothing, a layer that the method does not admit,
    /// a merged model, a method that starts from data. On error nothing was attached.
    pub fn attach(&mut self, name: &str, method: &AnyMethod, injection: &Injection) -> Result<()> {
        self.attach_calibrated(name, method, injection, &Calibration::default())
    }

    /// [`attach`](Self::attach) for a method that starts from data: with the result of
    /// [`calibrate`](Self::calibrate).
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_calibrated(
        &mut self,
        name: &str,
        method: &AnyMethod,
        injection: &Injection,
        calibration: &Calibration,
    ) -> Result<()> {
        let injection = self.allocated(method, injection, calibration)?;
        self.attach_as_told(name, method, &injection, calibration)
    }

    /// [`attach_calibrated`](Self::attach_calibrated) without asking data about the configuration.
    pub(crate) fn attach_as_told(
        &mut self,
        name: &str,
        method: &AnyMethod,
        injection: &Injection,
        calibration: &Calibration,
    ) -> Result<()> {
        if let Some(held) = self.held.get(name) {
            return Err(Error::AlreadyAdapted {
                path: format!("the model ({})", held.attachment.method),
                name: name.to_owned(),
            });
        }
        if name.is_empty() || name.contains(['.', '/']) {
            return Err(Error::BadConfig {
                what: "adapter name".to_owned(),
                reason: format!("found `{name}`, expected a name without `.` and `/`"),
            });
        }
        self.refuse_while_merged()?;
        let shapes = self.model.shapes();
        let plan = Plan::new(method, &shapes, injection)?;
        self.refuse_quantised(&plan.params)?;
        let before = self.activity();
        // The new adapter becomes the active one: what others selected goes back to its original.
        self.disable(false);
        self.activate(&[], Composition::Sum)?;
        let held = Held {
            attachment: Attachment {
                name: name.to_owned(),
                method: method.meta().id.to_owned(),
                config: method.config().clone(),
                // With the targets taken by default written out: a file needs no table.
                injection: Injection {
                    targets: method.targets_in(&shapes, &injection.targets),
                    ..injection.clone()
                },
                layers: plan
                    .layers
                    .iter()
                    .map(|(layer, _)| layer.path.clone())
                    .collect(),
                sites: plan.sites.iter().map(|site| site.path.clone()).collect(),
                params: plan.params.clone(),
            },
            counts: plan.counts(),
            evolve: method.parts().evolve.clone(),
            evolve_sites: method.parts().evolve_sites.clone(),
            regularised: method.meta().regularised,
            lengthens: method.meta().lengthens,
            original: self.values_of(&plan.params),
            parked: BTreeMap::new(),
        };
        self.held.push(name, held);
        if let Err(error) = self.graft(name, method, &plan, injection.seed, calibration) {
            self.undo(name, before);
            return Err(error);
        }
        self.select(&plan.params, true);
        self.activate(&[name], Composition::Sum)
    }

    /// Calls `visit` with every slot and site.
    pub fn each_slot(&mut self, mut visit: impl FnMut(&str, Slot<'_>)) {
        self.model.slots(&mut Slots::new(&mut visit));
    }

    /// The model whose exact derivative the gradient of this one is: the same values, with what
    /// methods of a surrogate gradient detach held constant. See [`crate::Adapter::surrogate`].
    pub fn surrogate(&self) -> Self {
        let mut held = self.clone();
        held.each_slot(|_, slot| match slot {
            Slot::Linear(linear) => linear.hold(),
            Slot::Site(site) => site.hold(),
        });
        held
    }

    /// The context of a forward pass of this model.
    pub fn ctx(&self, mode: Mode) -> Ctx<'_> {
        Ctx::new(&self.bank, mode).observed_by(self.observer.as_deref())
    }

    /// What is attached.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.held.iter().map(|(_, held)| &held.attachment)
    }

    /// What an adapter trains and stores.
    ///
    /// # Errors
    /// If there is no adapter of that name.
    pub fn counts(&self, name: &str) -> Result<Counts> {
        Ok(self.held[self.index(name)?].counts)
    }

    /// The parameters that receive gradients, with their paths.
    pub fn trainable(&self) -> Vec<Found> {
        params::list(self)
            .into_iter()
            .filter(|param| param.trained)
            .collect()
    }

    /// Position of an attachment.
    pub(crate) fn index(&self, name: &str) -> Result<usize> {
        self.held
            .position(name)
            .ok_or_else(|| unknown_adapter(name, self.held.names()))
    }
}

/// The error for a method id that no registry knows.
pub fn unknown_method<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    Error::UnknownMethod {
        found: found.to_owned(),
        suggestion: suggestion(found, known),
    }
}
