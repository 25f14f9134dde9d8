//! From a configuration and tensors of PEFT to a method and tensors of Engraft.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;
use engraft_core::{Adaptable, Adapted, AnyMethod, Injection, LayerShape, ModelShapes, Targets};
use serde_json::Value;

use crate::adapter::PeftAdapter;
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::experts;
use crate::extras::Extras;
use crate::field;
use crate::pair::Pair;
use crate::targets;
use crate::types::PeftType;
use crate::types::{self, Configured};

/// Keys of every configuration that say nothing about what an adapter computes.
const NEUTRAL: [&str; 6] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
];

/// A PEFT adapter in Engraft's terms.
#[derive(Debug, Clone)]
pub struct Import {
    /// Name of the adapter.
    pub name: String,
    /// Id of the method.
    pub method: String,
    /// Its configuration.
    pub config: Value,
    /// Where it goes, and what of the model is trained along.
    pub injection: Injection,
    /// The tensors, keyed as [`Adapted::restore`] expects them.
    pub tensors: BTreeMap<String, TensorData>,
    /// What was read in a way the user should know of.
    pub warnings: Vec<String>,
    pub(crate) pairs: Vec<Pair>,
    /// `peft_type`.
    pub(crate) kind: &'static str,
    pub(crate) layers: Vec<Configured>,
    /// PEFT's keys of tensors that were grown from a seed.
    pub(crate) grown: Vec<String>,
    /// Parameters that the method computes from the base.
    derived: &'static [&'static str],
}

impl Import {
    /// Attaches the adapter. `method` makes a method from its
    /// id and configuration: the registry's function.
    ///
    /// # Errors
    /// A method that is not registered, or one that does not fit the model. On error nothing was
    /// attached.
    pub fn attach<M: Adaptable>(
        &self,
        adapted: &mut Adapted<M>,
        method: impl Fn(&str, &Value) -> engraft_core::Result<AnyMethod>,
    ) -> Result<()> {
        let method = method(&self.method, &self.config)?;
        let mut tensors = self.tensors.clone();
        if !self.derived.is_empty() {
            let mut fresh = adapted.clone();
            fresh.attach(&self.name, &method, &self.injection)?;
            let inside = format!(".adapters.{}.", self.name);
            let derived = |key: &str| {
                let field = key.split_once(&inside).map(|(_, field)| field);
                field.is_some_and(|field| self.derived.contains(&field))
            };
            let computed = fresh.adapter_tensors(&self.name)?.into_iter();
            tensors.extend(computed.filter(|(key, _)| derived(key)));
        }
        Ok(adapted.restore(&self.name, &method, &self.injection, &tensors)?)
    }

    /// Tensors of the adapter (its gradients, for example), keyed as Engraft does, under all of
    /// PEFT's keys and in PEFT's layout: a parameter that layers share has a key for each of them
    /// where PEFT repeats it.
    ///
    /// # Errors
    /// Values that PEFT's files cannot express.
    pub fn to_peft(
        &self,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<BTreeMap<String, TensorData>> {
        let mut found = self
            .pairs
            .iter()
            .filter_map(|pair| {
                let data = tensors.get(&pair.own)?;
                Some((pair.peft.clone(), pair.to_peft(data)))
            })
            .collect();
        let layers: Vec<LayerShape> = self.layers.iter().map(|own| own.layer.clone()).collect();
        experts::join(&mut found, &layers);
        types::find(self.kind)?
            .pack(&self.layers, &mut found)
            .map_err(Error::Unsupported)?;
        Ok(found)
    }
}

pub(crate) fn import(adapter: &PeftAdapter, shapes: &ModelShapes, name: &str) -> Result<Import> {
    let mut config = Reader::new(&adapter.config).on_residual(adapter.residual);
    let kind = types::find(&config.get("peft_type", String::new())?)?;
    config.skip(&NEUTRAL);
    let extras = Extras::read(&mut config)?;
    let layers = targets::read(&mut config, shapes, &extras.modules)?;
    if let Some(layer) = layers.iter().find(|layer| !kind.takes(layer.kind)) {
        return Err(Error::Unsupported(format!(
            "{}: {} does not go on layers of kind {:?}",
            layer.path,
            kind.name(),
            layer.kind
        )));
    }
    let mut settings = kind.read(&mut config, &layers)?;
    let warnings = config.finish()?;
    let mut grown: Vec<String> = settings.grown.keys().cloned().collect();
    let mut found = std::mem::take(&mut settings.grown);
    found.extend(adapter.tensors.clone());
    experts::split(&mut found, &layers);
    kind.unpack(&layers, &mut settings, &mut found, &adapter.frozen)?;
    grown.extend(std::mem::take(&mut settings.grown).into_keys());

    let params = extras.params(shapes, &layers)?;
    let configured: Vec<Configured> = layers
        .iter()
        .map(|layer| {
            let mut config = settings.config.clone();
            config.extend(
                settings
                    .overrides
                    .get(&layer.path)
                    .cloned()
                    .unwrap_or_default(),
            );
            Configured {
                layer: layer.clone(),
                method: settings.method.to_owned(),
                config,
            }
        })
        .collect();
    let mut pairs = kind.pairs(&configured, name)?;
    let unsaved = unsaved_pairs(kind, &configured, name)?;
    for pair in &unsaved {
        let Some(data) = adapter.frozen.get(&pair.peft) else {
            return Err(Error::Unsupported(kind.why_unsaved().to_owned()));
        };
        found.insert(pair.peft.clone(), data.clone());
    }
    pairs.extend(unsaved);
    pairs.extend(extras.pairs(&params, shapes, &layers, &found));
    let tensors = field::to_own(&pairs, &found)?;

    let chosen: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).collect();
    let all: Vec<&str> = shapes
        .layers
        .iter()
        .map(|layer| layer.path.as_str())
        .collect();
    let targets = Targets {
        include: targets::exactly(&chosen, &all),
        config_pattern: settings
            .overrides
            .iter()
            .map(|(path, table)| (targets::only(path), table.clone()))
            .collect(),
        ..Targets::default()
    };
    let injection = Injection {
        targets,
        seed: settings.seed,
        train_also: params,
        ..Injection::default()
    };
    Ok(Import {
        name: name.to_owned(),
        method: settings.method.to_owned(),
        config: Value::Object(settings.config),
        injection,
        tensors,
        warnings,
        pairs,
        kind: kind.name(),
        layers: configured,
        grown,
        derived: kind.derived(settings.method),
    })
}

/// Frozen parameters of the layers that PEFT does not save.
pub(crate) fn unsaved_pairs(
    kind: &dyn PeftType,
    layers: &[Configured],
    name: &str,
) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for layer in layers {
        let fields = kind.unsaved(layer)?;
        pairs.extend(
            fields
                .into_iter()
                .map(|field| field.on_layer(&layer.layer, name)),
        );
    }
    Ok(pairs)
}

/// The layers of `shapes` at these paths.
pub(crate) fn at_paths(shapes: &ModelShapes, paths: &[String]) -> Vec<LayerShape> {
    let wanted: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    shapes
        .layers
        .iter()
        .filter(|layer| wanted.contains(layer.path.as_str()))
        .cloned()
        .collect()
}
