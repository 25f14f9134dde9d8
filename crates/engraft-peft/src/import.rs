//! From a configuration and tensors of PEFT to a method and tensors of Engraft.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;
use engraft_core::{Adaptable, Adapted, AnyMethod, Injection, LayerShape, ModelShapes, Targets};
use serde_json::Value;

use crate::adapter::PeftAdapter;
use crate::base_weights;
use crate::config::Reader;
use crate::copies;
use crate::error::{Error, Result};
use crate::experts;
use crate::extras::Extras;
use crate::field;
use crate::pair::Pair;
use crate::targets;
use crate::ties::{self, Tying};
use crate::tokens;
use crate::types::PeftType;
use crate::types::{self, Configured};
use crate::whole::prompts::ENCODER;
use crate::whole::{self, Whole, WholeType};

/// Keys of every configuration that say nothing about what an adapter computes.
const NEUTRAL: [&str; 6] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
];

/// Which of the model's layers are repeated.
pub(crate) const REPLICATION: &str = "layer_replication";

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
    /// PEFT's keys of tensors that say what others say.
    pub(crate) copies: Vec<String>,
    /// Weights of the model that came with the adapter, by path.
    base: BTreeMap<String, TensorData>,
    /// Parameters that the method computes from the base.
    derived: &'static [&'static str],
}

impl Import {
    /// Attaches the adapter. `method` makes a method from its
    /// id and configuration: the registry's function.
    ///
    /// # Errors
    /// A method that is not registered, or one that does not fit the model, or weights of the model
    /// in the file that are not the model's. On error nothing was attached.
    pub fn attach<M: Adaptable>(
        &self,
        adapted: &mut Adapted<M>,
        method: impl Fn(&str, &Value) -> engraft_core::Result<AnyMethod>,
    ) -> Result<()> {
        base_weights::compare(adapted, &self.base)?;
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
        match whole::find(self.kind) {
            Some(kind) => kind.pack(&mut found),
            None => types::find(self.kind)?.pack(&self.layers, &mut found),
        }
        .map_err(Error::Unsupported)?;
        Ok(found)
    }
}

pub(crate) fn import(adapter: &PeftAdapter, shapes: &ModelShapes, name: &str) -> Result<Import> {
    let mut config = Reader::new(&adapter.config).on_residual(adapter.residual);
    let peft_type = config.get("peft_type", String::new())?;
    config.skip(&NEUTRAL);
    if let Some(kind) = whole::find(&peft_type) {
        return import_whole(kind, config, adapter, shapes, name);
    }
    let kind = types::find(&peft_type)?;
    check_replication(&mut config, shapes)?;
    let mut extras = Extras::read(&mut config)?;
    let tying = Tying::read(&mut config, shapes, &extras)?;
    tying.of_modules(&mut extras, shapes);
    if tying == Tying::No {
        ties::check(&extras.modules, shapes)?;
    }
    let layers = targets::read(&mut config, shapes, &extras.modules)?;
    let layers = tying.of_layers(layers, shapes);
    if let Some(layer) = layers.iter().find(|layer| !kind.takes(layer.kind)) {
        return Err(Error::Unsupported(format!(
            "{}: {} does not go on layers of kind {:?}",
            layer.path,
            kind.name(),
            layer.kind
        )));
    }
    let mut settings = kind.read(&mut config, &layers)?;
    tying.of_settings(&mut settings)?;
    let warnings = config.finish()?;
    let mut grown: Vec<String> = settings.grown.keys().cloned().collect();
    let mut found = std::mem::take(&mut settings.grown);
    found.extend(adapter.tensors.clone());
    let mut copies = tying.of_tensors(&mut found, shapes);
    experts::split(&mut found, &layers);
    kind.unpack(&layers, &mut settings, &mut found, &adapter.frozen)?;
    grown.extend(std::mem::take(&mut settings.grown).into_keys());

    let params = extras.params(shapes, &layers)?;
    let tokens = extras.tokens(shapes)?;
    let base = base_weights::take(&mut found, shapes, &params)?;
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
    pairs.extend(tokens::pairs(&tokens, shapes, name));
    copies.extend(copies::take(&mut found, &mut pairs));
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
        train_tokens: tokens,
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
        copies,
        base,
        derived: kind.derived(settings.method),
    })
}

fn import_whole(
    kind: &'static dyn WholeType,
    mut config: Reader,
    adapter: &PeftAdapter,
    shapes: &ModelShapes,
    name: &str,
) -> Result<Import> {
    let mut found = adapter.tensors.clone();
    let trained = adapter
        .frozen
        .iter()
        .filter(|(key, _)| key.starts_with(ENCODER));
    found.extend(trained.map(|(key, data)| (key.clone(), data.clone())));
    let Whole {
        method,
        config: own,
        injection,
        pairs,
        derived,
    } = kind.read(&mut config, shapes, &mut found, name)?;
    let warnings = config.finish()?;
    Ok(Import {
        name: name.to_owned(),
        method: method.to_owned(),
        config: Value::Object(own),
        injection,
        tensors: field::to_own(&pairs, &found)?,
        warnings,
        pairs,
        kind: kind.name(),
        layers: Vec::new(),
        grown: Vec::new(),
        copies: Vec::new(),
        base: BTreeMap::new(),
        derived,
    })
}

/// The ranges of layers that are repeated, if any are.
pub(crate) fn replication(config: &mut Reader) -> Result<Option<Vec<[usize; 2]>>> {
    Ok(config
        .find(REPLICATION)?
        .filter(|ranges: &Vec<_>| !ranges.is_empty()))
}

/// Whether the model repeats the layers that the adapter was trained on.
fn check_replication(config: &mut Reader, shapes: &ModelShapes) -> Result<()> {
    let asked = replication(config)?.unwrap_or_default();
    match asked == shapes.replicated {
        true => Ok(()),
        false => Err(Error::config(
            REPLICATION,
            format!(
                "found {asked:?}, but the model's is {:?}: repeat its layers first",
                shapes.replicated
            ),
        )),
    }
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
