//! Making the adapters of a plan and putting them into their slots.

use std::collections::{BTreeMap, BTreeSet};

use crate::adaptable::{Adaptable, Slot, Slots};
use crate::adapted::{Adapted, Injection};
use crate::adapter::{AnyAdapter, InitContext};
use crate::bank::{Bank, BankSpec};
use crate::base::FrozenBase;
use crate::error::{Error, Result};
use crate::linear::Linear;
use crate::method::AnyMethod;
use crate::parts::Parts;
use crate::plan::Plan;
use crate::shape::{LayerKind, LayerShape};
use crate::site::Site;
use crate::statistics::{Calibration, Statistics};
use crate::targets::{Include, Targets};
use crate::token_rows::TokenRows;

/// What the slots of one attachment are filled from.
struct Graftage<'a> {
    name: &'a str,
    seed: u64,
    plan: &'a Plan,
    parts: &'a Parts,
    bank: &'a Bank,
    calibration: &'a Calibration,
    /// The word embeddings.
    embeddings: Option<&'a FrozenBase>,
    /// Any layer, for the device and precision of parameters that belong to no layer.
    reference: &'a FrozenBase,
    /// The adapters of a model graft, in the order of the plan's layers.
    made: Vec<Option<AnyAdapter>>,
}

impl Graftage<'_> {
    fn linear(&mut self, path: &str, linear: &mut Linear) -> Result<()> {
        let mut trained = self.plan.tokens.iter();
        if let Some((layer, tokens)) = trained.find(|(layer, _)| layer.path == path) {
            let rows = TokenRows::new(tokens, &linear.base(), layer.kind);
            return linear.attach(path, self.name, AnyAdapter::new(rows));
        }
        let layers = &self.plan.layers;
        let Some(index) = layers.iter().position(|(layer, _)| layer.path == path) else {
            return Ok(());
        };
        let (layer, method) = &layers[index];
        let adapter = match (self.made[index].take(), &method.parts().graft) {
            (Some(adapter), _) => adapter,
            (None, Some(graft)) => {
                let base = linear.base();
                let ctx = InitContext::new(self.seed, path, self.name, &base, self.bank)
                    .of_kind(layer.kind)
                    .with_calibration(self.calibration);
                graft.init(&base, &ctx)?
            }
            (None, None) => return Ok(()),
        };
        linear.attach(path, self.name, adapter)
    }

    fn site(&self, path: &str, site: &mut Site) -> Result<()> {
        let shape = self.plan.sites.iter().find(|shape| shape.path == path);
        let (Some(shape), Some(part)) = (shape, &self.parts.site) else {
            return Ok(());
        };
        let ctx = InitContext::new(self.seed, path, self.name, self.reference, self.bank)
            .with_embeddings(self.embeddings)
            .with_calibration(self.calibration);
        site.attach(path, self.name, part.init(shape, &ctx)?)
    }
}

impl<M: Adaptable> Adapted<M> {
    pub(crate) fn graft(
        &mut self,
        name: &str,
        method: &AnyMethod,
        plan: &Plan,
        seed: u64,
        calibration: &Calibration,
    ) -> Result<()> {
        let parts = method.parts();
        let bases = self.bases(plan)?;
        let reference = self.reference()?;
        let embeddings = match parts.site {
            Some(_) => self.word_embeddings(),
            None => None,
        };
        let layers: Vec<LayerShape> = bases.iter().map(|(layer, _)| layer.clone()).collect();
        let home = bases.first().map_or(&reference, |(_, first)| first);
        self.bank.grow(
            name,
            &bank_specs(parts, &layers, plan),
            seed,
            &home.device(),
            home.dtype(),
        );
        let Self { model, bank, .. } = self;
        let bank = &*bank;
        let made = match &parts.model {
            Some(model) => model
                .graft(
                    &bases,
                    &InitContext::new(seed, "", name, &reference, bank)
                        .with_calibration(calibration),
                )?
                .into_iter()
                .map(Some)
                .collect(),
            None => vec![None; bases.len()],
        };
        if made.len() != bases.len() {
            return Err(Error::Unsupported(format!(
                "`{}` made {} adapters for {} layers",
                method.meta().id,
                made.len(),
                bases.len()
            )));
        }
        let mut graftage = Graftage {
            name,
            seed,
            plan,
            parts,
            bank,
            calibration,
            embeddings: embeddings.as_ref(),
            reference: &reference,
            made,
        };
        let mut outcome = Ok(());
        let mut planned: BTreeSet<&str> = plan
            .layers
            .iter()
            .map(|(layer, _)| layer.path.as_str())
            .chain(plan.sites.iter().map(|site| site.path.as_str()))
            .collect();
        let mut fill = |path: &str, slot: Slot<'_>| {
            planned.remove(path);
            if outcome.is_ok() {
                outcome = match slot {
                    Slot::Linear(linear) => graftage.linear(path, linear),
                    Slot::Site(site) => graftage.site(path, site),
                };
            }
        };
        model.slots(&mut Slots::new(&mut fill));
        outcome?;
        match planned.first() {
            None => Ok(()),
            Some(path) => Err(Error::Unsupported(format!(
                "{path}: the model's shapes list it, its slots do not show it"
            ))),
        }
    }

    /// The injection with what data decides about the layers written into it; see
    /// [`Graft::allocate`](crate::Graft::allocate).
    pub(crate) fn allocated(
        &self,
        method: &AnyMethod,
        injection: &Injection,
        calibration: &Calibration,
    ) -> Result<Injection> {
        let mut injection = injection.clone();
        let Some(graft) = &method.parts().graft else {
            return Ok(injection);
        };
        let shapes = self.model.shapes();
        let targets = method.targets_in(&shapes, &injection.targets);
        let plan = Plan::new(method, &shapes, &injection)?;
        let layers: Vec<_> = plan
            .layers
            .iter()
            .map(|(layer, method)| (layer.clone(), method.config().clone()))
            .collect();
        let decided = graft.allocate(&layers, calibration)?;
        if decided.is_empty() {
            return Ok(injection);
        }
        let (mut kept, mut patterns) = (Vec::new(), BTreeMap::new());
        for ((layer, _), keys) in layers.iter().zip(decided) {
            if let Some(keys) = keys {
                let path = regex::escape(&layer.path);
                let mut own = targets.overrides(&layer.path)?;
                own.extend(keys);
                patterns.insert(format!("^{path}$"), own);
                kept.push(path);
            }
        }
        // Every layer has its own line now, the user's patterns included.
        injection.targets = Targets {
            include: Include::Regex(kept.join("|")),
            config_pattern: patterns,
            ..Targets::default()
        };
        Ok(injection)
    }

    /// What stands in for a calibration where a file's values replace those that a method starts
    /// from.
    pub(crate) fn placeholder(
        &mut self,
        method: &AnyMethod,
        injection: &Injection,
    ) -> Result<Calibration> {
        let plan = Plan::new(method, &self.model.shapes(), injection)?;
        let mut calibration = Calibration::default();
        for ((layer, base), (_, method)) in self.bases(&plan)?.iter().zip(&plan.layers) {
            let needs = method.needs();
            if needs.any() {
                let statistics = Statistics::placeholder(needs, &base.weight());
                calibration.insert(&layer.path, statistics);
            }
        }
        if method.probe().is_some() {
            for site in &plan.sites {
                calibration.insert(&site.path, Statistics::default());
            }
        }
        Ok(calibration)
    }

    /// The frozen layers of a plan, in its order.
    fn bases(&mut self, plan: &Plan) -> Result<Vec<(LayerShape, FrozenBase)>> {
        let mut bases = Vec::with_capacity(plan.layers.len());
        self.each_slot(|path, slot| {
            if let (Slot::Linear(linear), Some((layer, _))) = (
                slot,
                plan.layers.iter().find(|(layer, _)| layer.path == path),
            ) {
                bases.push((layer.clone(), linear.base()));
            }
        });
        if bases.len() != plan.layers.len() {
            return Err(Error::Unsupported(
                "the model's shapes name layers that it does not show as slots".to_owned(),
            ));
        }
        Ok(bases)
    }

    /// The first embedding: that of words in every model of text.
    fn word_embeddings(&mut self) -> Option<FrozenBase> {
        let shapes = self.model.shapes();
        let mut layers = shapes.layers.iter();
        let first = layers.find(|layer| layer.kind == LayerKind::Embedding)?;
        let mut found = None;
        self.each_slot(|path, slot| {
            if let (Slot::Linear(linear), true) = (slot, path == first.path) {
                found = Some(linear.base());
            }
        });
        found
    }

    fn reference(&mut self) -> Result<FrozenBase> {
        let mut found = None;
        self.each_slot(|_, slot| {
            if let (Slot::Linear(linear), None) = (slot, &found) {
                found = Some(linear.base());
            }
        });
        found.ok_or_else(|| Error::Unsupported("the model shows no linear layer".to_owned()))
    }
}

/// The shared state of all parts of a method.
fn bank_specs(parts: &Parts, layers: &[LayerShape], plan: &Plan) -> Vec<BankSpec> {
    if layers.is_empty() {
        let sites = parts.site.iter();
        return sites.flat_map(|part| part.banks(&plan.sites)).collect();
    }
    let graft = parts.graft.iter().flat_map(|graft| graft.banks(layers));
    let model = parts.model.iter().flat_map(|model| model.banks(layers));
    let sites = parts.site.iter().flat_map(|part| part.banks(&plan.sites));
    graft.chain(model).chain(sites).collect()
}
