//! From an attached adapter to a configuration and tensors of PEFT.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::{Adaptable, Adapted, Attachment, Include, LayerKind, LayerShape};
use serde_json::{Map, Value};

use crate::adapter::PeftAdapter;
use crate::base_weights;
use crate::config::{PeftConfig, Reader};
use crate::error::{Error, Result};
use crate::experts;
use crate::extras::{Biases, Extras};
use crate::field::Layout;
use crate::import::{REPLICATION, at_paths, unsaved_pairs};
use crate::pair::Pair;
use crate::targets;
use crate::ties;
use crate::tokens;
use crate::types::{self, Configured, PeftType, Table, Written};
use crate::whole::prompts::{ENCODER, FINISHED, finished};
use crate::whole::{self, WholeType};

/// The version of PEFT whose files are written.
const VERSION: &str = "0.21.2";

/// The types that PEFT has for `Conv1D`, the layers of GPT-2.
const CONV1D: [&str; 15] = [
    "ADALORA",
    "DEFT",
    "FOURIERFT",
    "FROD",
    "GRALORA",
    "HIRA",
    "IA3",
    "LORA",
    "PVERA",
    "RANDLORA",
    "TINYLORA",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
];

pub(crate) fn export<M: Adaptable>(
    adapted: &Adapted<M>,
    name: &str,
    fan_in_fan_out: bool,
) -> Result<PeftAdapter> {
    let tensors = adapted.adapter_tensors(name)?;
    let attachment = adapted
        .attachments()
        .find(|attachment| attachment.name == name)
        .expect("its tensors were found");
    if let Some(kind) = whole::of_method(&attachment.method) {
        return export_whole(kind, attachment, adapted, tensors);
    }
    let kind = types::of_method(&attachment.method)?;
    let refuse = |reason: String| {
        Error::Unsupported(format!(
            "adapter `{name}` cannot be written as {}: {reason}",
            kind.name()
        ))
    };
    if !attachment.sites.is_empty() {
        return Err(refuse("it acts on hidden states".to_owned()));
    }
    let shapes = adapted.model.shapes();
    let layers = at_paths(&shapes, &attachment.layers);
    let configured = layers
        .iter()
        .map(|layer| configured(attachment, layer.clone()))
        .collect::<Result<Vec<_>>>()?;
    if configured.is_empty() {
        return Err(refuse("it adapts no layer".to_owned()));
    }
    let body = |layer: &LayerShape| layer.kind == LayerKind::Linear && !shapes.is_head(&layer.path);
    if fan_in_fan_out && !CONV1D.contains(&kind.name()) && layers.iter().any(body) {
        return Err(refuse(format!(
            "PEFT has it for no Conv1D layers, which this model has; of those that it has: {}",
            CONV1D.join(", ")
        )));
    }
    let written = kind.write(&configured).map_err(refuse)?;
    let extras =
        Extras::of(&attachment.params, &shapes, &layers, fan_in_fan_out).map_err(refuse)?;

    let unsaid = [
        ("modules_to_save", !extras.modules.is_empty()),
        ("bias", extras.biases != Biases::None),
    ];
    let unsaid = unsaid
        .iter()
        .find(|(key, used)| *used && kind.lacks().contains(key));
    if let Some((key, _)) = unsaid {
        return Err(refuse(format!(
            "it trains {} along, and {}'s configuration has no `{key}`",
            attachment.params.join(", "),
            kind.name()
        )));
    }
    let mut pairs = kind.pairs(&configured, name)?;
    pairs.extend(extras.pairs(&attachment.params, &shapes, &layers, &BTreeMap::new()));
    let trained = &attachment.injection.train_tokens;
    pairs.extend(tokens::pairs(trained, &shapes, name));
    let value = |pair: &Pair| {
        if pair.layout == Layout::Zeros {
            let zeros = TensorData::zeros::<f32, _>(pair.shape.clone());
            return Ok((pair.peft.clone(), zeros));
        }
        let data = tensors.get(&pair.own).cloned();
        let data = data.or_else(|| grown(adapted, &pair.own));
        data.map(|data| (pair.peft.clone(), pair.to_peft(&data)))
            .ok_or_else(|| refuse(format!("it has no tensor {}", pair.own)))
    };
    let mut exported: BTreeMap<_, _> = pairs.iter().map(value).collect::<Result<_>>()?;
    let hidden = unsaved_pairs(kind, &configured, name)?;
    let unsaved: BTreeMap<_, _> = hidden.iter().map(value).collect::<Result<_>>()?;
    pairs.extend(hidden);
    let derived = kind.derived(&attachment.method);
    let has_place = |key: &str| {
        pairs.iter().any(|pair| pair.own == key)
            || derived
                .iter()
                .any(|field| key.ends_with(&format!(".adapters.{name}.{field}")))
    };
    if let Some(key) = tensors.keys().find(|key| !has_place(key)) {
        return Err(refuse(format!("PEFT has no place for its tensor {key}")));
    }
    experts::join(&mut exported, &layers);
    kind.pack(&configured, &mut exported).map_err(refuse)?;
    if written.keys.get(ties::KEY) == Some(&true.into()) {
        exported.extend(ties::repeated(&exported, &shapes));
    }
    if trained.is_empty() && kind.saves_base() {
        exported.extend(base_weights::saved(adapted, &layers));
    }
    let all: Vec<&str> = shapes
        .layers
        .iter()
        .map(|layer| layer.path.as_str())
        .collect();
    let chosen: Vec<&str> = layers
        .iter()
        .filter(|layer| layer.kind != LayerKind::Experts)
        .map(|layer| layer.path.as_str())
        .collect();
    let parameters: Vec<String> = experts::stacks(&layers)
        .into_keys()
        .map(|stack| format!("{stack}.weight"))
        .collect();
    let own_targets = match targets::exactly(&chosen, &all) {
        Include::Regex(regex) => Value::from(regex),
        _ => chosen.into(),
    };
    let own_targets = match written.keys.get(ties::KEY) == Some(&true.into()) {
        true => ties::named(&own_targets, &shapes).map_err(refuse)?,
        false => own_targets,
    };
    let mut config = config(kind, written, &extras, own_targets.clone(), parameters);
    if !trained.is_empty() {
        let Some(key) = config.keys.get_mut(tokens::KEY) else {
            return Err(refuse("it trains tokens of an embedding along".to_owned()));
        };
        *key = tokens::to_json(trained);
    }
    if ties::shared(&attachment.params, &shapes) {
        let Some(key) = config.keys.get_mut(ties::KEY) else {
            return Err(refuse(
                "it trains the weight that the embedding and the output layer share".to_owned(),
            ));
        };
        *key = true.into();
    }
    if !shapes.replicated.is_empty() {
        let Some(key) = config.keys.get_mut(REPLICATION) else {
            return Err(refuse("its model repeats layers".to_owned()));
        };
        *key = shapes
            .replicated
            .clone()
            .into_iter()
            .map(Vec::from)
            .collect();
    }
    if config.keys["target_modules"] != own_targets {
        // A type that shares by names writes those; they must take the same layers.
        let taken = targets::read(&mut Reader::new(&config), &shapes, &extras.modules)?;
        if taken != layers {
            return Err(refuse(format!(
                "its layers are shared by the names {}, which take other layers too",
                config.keys["target_modules"]
            )));
        }
    }
    Ok(PeftAdapter::from_parts(config, exported).with_frozen(unsaved))
}

/// A bank entry that was grown, not given, is in no file of Engraft: PEFT's has it.
fn grown<M: Adaptable>(adapted: &Adapted<M>, own: &str) -> Option<TensorData> {
    let entry = own.strip_prefix("bank.given.")?;
    adapted.bank.get(entry).map(|tensor| tensor.to_data())
}

fn export_whole<M: Adaptable>(
    kind: &dyn WholeType,
    attachment: &Attachment,
    adapted: &Adapted<M>,
    mut tensors: BTreeMap<String, TensorData>,
) -> Result<PeftAdapter> {
    let refuse = |reason: String| {
        Error::Unsupported(format!(
            "adapter `{}` cannot be written as {}: {reason}",
            attachment.name,
            kind.name()
        ))
    };
    let (own, pairs) = kind
        .write(attachment, &adapted.model.shapes())
        .map_err(refuse)?;
    let mut exported = BTreeMap::new();
    for pair in &pairs {
        let data = tensors
            .remove(&pair.own)
            .or_else(|| grown(adapted, &pair.own));
        let data = data.ok_or_else(|| refuse(format!("it has no tensor {}", pair.own)))?;
        exported.insert(pair.peft.clone(), pair.to_peft(&data));
    }
    if let Some(key) = tensors.keys().next() {
        return Err(refuse(format!("PEFT has no place for its tensor {key}")));
    }
    kind.pack(&mut exported).map_err(refuse)?;
    // What it was computed from is in no file.
    let is_saved = |key: &String, _: &mut TensorData| !key.starts_with(ENCODER);
    let saved: BTreeMap<_, _> = exported.extract_if(.., is_saved).collect();
    let (unsaved, mut exported) = (exported, saved);
    if let Some(place) = kind.computed(attachment) {
        exported.insert(FINISHED.to_owned(), finished(adapted, attachment, place)?);
    }
    let mut keys = neutral(kind.name());
    keys.extend(own);
    let config = PeftConfig {
        keys,
        ..PeftConfig::default()
    };
    Ok(PeftAdapter::from_parts(config, exported).with_frozen(unsaved))
}

/// The keys of every configuration.
fn neutral(peft_type: &str) -> Table {
    types::table([
        ("peft_type", peft_type.into()),
        ("peft_version", VERSION.into()),
        ("task_type", Value::Null),
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", Value::Null),
        ("revision", Value::Null),
        ("inference_mode", true.into()),
    ])
}

/// A layer with the attachment's configuration for it.
fn configured(attachment: &Attachment, layer: LayerShape) -> Result<Configured> {
    let mut config = attachment.config.as_object().cloned().unwrap_or_default();
    config.extend(attachment.injection.targets.overrides(&layer.path)?);
    Ok(Configured {
        layer,
        method: attachment.method.clone(),
        config,
    })
}

fn config(
    kind: &dyn PeftType,
    written: Written,
    extras: &Extras,
    target_modules: Value,
    parameters: Vec<String>,
) -> PeftConfig {
    let biases = match extras.biases {
        Biases::None => "none".to_owned(),
        Biases::All => "all".to_owned(),
        Biases::Adapted => format!("{}_only", kind.name().to_lowercase()),
    };
    let modules = if extras.modules.is_empty() {
        Value::Null
    } else {
        extras.modules.clone().into()
    };
    let mut keys: Map<String, Value> = written.keys;
    for (key, value) in neutral(kind.name()) {
        keys.entry(key).or_insert(value);
    }
    let common = [
        ("target_modules", target_modules),
        ("modules_to_save", modules),
        ("bias", biases.into()),
        ("fan_in_fan_out", extras.fan_in_fan_out.into()),
        ("exclude_modules", Value::Null),
        ("layers_to_transform", Value::Null),
        ("layers_pattern", Value::Null),
    ];
    for (key, value) in common {
        if !kind.lacks().contains(&key) {
            keys.entry(key).or_insert(value);
        }
    }
    if kind.takes(LayerKind::Experts) {
        let parameters = match parameters.is_empty() {
            true => Value::Null,
            false => parameters.into(),
        };
        keys.insert("target_parameters".to_owned(), parameters);
    }
    PeftConfig {
        rank_pattern: written.rank_pattern,
        alpha_pattern: written.alpha_pattern,
        keys,
        ..PeftConfig::default()
    }
}
