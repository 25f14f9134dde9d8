//! Output layers that share the weight of an embedding: what PEFT makes of the two.
//!
//! PEFT wraps them one by one. A module that it saves whole is a copy, which is tied to nothing: the
//! model has two weights from then on. `ensure_weight_tying` = true makes what is trained on the
//! embedding act on the output layer too, LoRA's A and B as B^T and A^T.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::{LayerShape, ModelShapes, Tie};
use fancy_regex::Regex;
use serde_json::Value;

use crate::config::Reader;
use crate::error::{Error, Result};
use crate::extras::{Extras, is_saved, parent};
use crate::field::MODEL;
use crate::tokens::Tokens;
use crate::types::{Settings, Tensors};

/// The key of the configuration.
pub(crate) const KEY: &str = "ensure_weight_tying";

/// The key of LoRA's own configuration.
pub(crate) const TIED: &str = "tied";

/// What PEFT takes for an embedding or an output layer.
const NAMES: [&str; 2] = ["embed_tokens", "lm_head"];

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn is_one(path: &str) -> bool {
    NAMES.contains(&last(path))
}

/// Whether a layer is a module that is saved whole.
fn saved(path: &str, modules: &[String]) -> bool {
    is_saved(&format!("{path}.weight"), modules)
}

/// What a configuration wants tied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tying {
    /// Nothing.
    No,
    /// The module saved whole.
    Module,
    /// The adapters.
    Adapters,
}

impl Tying {
    /// Reads the configuration for a model of these shapes.
    pub(crate) fn read(config: &mut Reader, shapes: &ModelShapes, extras: &Extras) -> Result<Self> {
        let ensured: bool = config.get(KEY, false)?;
        if !ensured || shapes.ties.is_empty() {
            return Ok(Self::No);
        }
        if extras.modules.iter().any(|module| is_one(module)) {
            return Ok(Self::Module);
        }
        let targeted = match config.targets() {
            Value::String(pattern) => {
                let regex = Regex::new(&format!("^(?:{pattern})$"))
                    .map_err(|error| Error::config("target_modules", error))?;
                NAMES
                    .iter()
                    .any(|name| regex.is_match(name).unwrap_or(false))
            }
            Value::Array(names) => names.iter().filter_map(Value::as_str).any(is_one),
            _ => false,
        };
        Ok(match targeted {
            true => Self::Adapters,
            false => Self::No,
        })
    }

    /// The modules that are saved whole: the embedding for both where they are tied.
    pub(crate) fn of_modules(self, extras: &mut Extras, shapes: &ModelShapes) {
        if self != Self::Module {
            return;
        }
        for Tie { layer, embedding } in &shapes.ties {
            if saved(layer, &extras.modules) || saved(embedding, &extras.modules) {
                extras
                    .modules
                    .retain(|name| !layer.ends_with(name.as_str()));
                if !saved(embedding, &extras.modules) {
                    extras.modules.push(embedding.clone());
                }
            }
        }
    }

    /// The adapted layers: the embedding for both where their adapters are tied.
    pub(crate) fn of_layers(
        self,
        layers: Vec<LayerShape>,
        shapes: &ModelShapes,
    ) -> Vec<LayerShape> {
        if self != Self::Adapters {
            return layers;
        }
        let taken = |path: &str| layers.iter().any(|layer| layer.path == path);
        let tie_of = |path: &str| shapes.ties.iter().find(|tie| tie.embedding == path);
        let all = shapes.layers.iter().filter(|layer| {
            let tied = tie_of(&layer.path).is_some();
            let follows = shapes.tied_to(&layer.path).is_some();
            !follows && (taken(&layer.path) || tied)
        });
        all.cloned().collect()
    }

    /// Says so to the method.
    ///
    /// # Errors
    /// A method other than LoRA.
    pub(crate) fn of_settings(self, settings: &mut Settings) -> Result<()> {
        if self != Self::Adapters {
            return Ok(());
        }
        if settings.method != "lora" {
            return Err(Error::Unsupported(format!(
                "`{KEY}` = true for an embedding that is adapted by {}: expected plain LoRA",
                settings.method
            )));
        }
        settings.config.insert(TIED.to_owned(), true.into());
        Ok(())
    }

    /// Takes what the file repeats for the output layer out of its tensors, and returns the keys.
    pub(crate) fn of_tensors(self, found: &mut Tensors, shapes: &ModelShapes) -> Vec<String> {
        if self == Self::No {
            return Vec::new();
        }
        let repeats = |key: &str| {
            let inside = |tie: &Tie| key.starts_with(&format!("{MODEL}{}.", tie.layer));
            shapes.ties.iter().any(inside)
        };
        let copies: Vec<String> = found.keys().filter(|key| repeats(key)).cloned().collect();
        found.retain(|key, _| !repeats(key));
        copies
    }
}

/// Whether the adapter of a configuration makes two weights of one that two layers share.
pub(crate) fn unties(config: &mut Reader, shapes: &ModelShapes) -> Result<bool> {
    let ensured: bool = config.get(KEY, false)?;
    let modules: Vec<String> = config.get("modules_to_save", Vec::new())?;
    let tokens = Tokens::read(config)?;
    let either = |tie: &Tie| {
        let differ = |tokens: &Tokens| tokens.differ(&tie.layer, &tie.embedding);
        saved(&tie.layer, &modules)
            || saved(&tie.embedding, &modules)
            || tokens.as_ref().is_some_and(differ)
    };
    Ok(!ensured && shapes.ties.iter().any(either))
}

/// The layers to be named so that PEFT ties the adapters of an embedding among them: it looks for the
/// names that it knows only, and names an output layer as good as the embedding.
///
/// # Errors
/// Layers that have other names, as a reason.
pub(crate) fn named(targets: &Value, shapes: &ModelShapes) -> Result<Value, String> {
    let mut names = match targets {
        Value::Array(names) => names.clone(),
        other => return Err(format!("the layers are chosen by the expression {other}")),
    };
    if names.iter().filter_map(Value::as_str).any(is_one) {
        return Ok(targets.clone());
    }
    match shapes.ties.iter().find(|tie| is_one(&tie.layer)) {
        Some(tie) => {
            names.push(tie.layer.clone().into());
            Ok(names.into())
        }
        None => Err(format!(
            "PEFT ties the adapters of {} only",
            NAMES.join(" and ")
        )),
    }
}

/// Refuses what PEFT would make two weights of.
pub(crate) fn check(modules: &[String], shapes: &ModelShapes) -> Result<()> {
    let either = |tie: &&Tie| saved(&tie.layer, modules) || saved(&tie.embedding, modules);
    match shapes.ties.iter().find(either) {
        None => Ok(()),
        Some(tie) => Err(Error::config(
            "modules_to_save",
            format!(
                "found {}, but {} shares the weight of {}, and PEFT trains a copy that is not shared: \
                 untie the model first (`PeftAdapter::prepare`), or set `{KEY}`",
                modules.join(", "),
                tie.layer,
                tie.embedding
            ),
        )),
    }
}

/// Whether parameters of the model that are trained whole are shared by two layers.
pub(crate) fn shared(params: &[String], shapes: &ModelShapes) -> bool {
    let embeddings = || shapes.ties.iter().map(|tie| tie.embedding.as_str());
    let mut params = params.iter().map(|path| parent(path));
    params.any(|module| embeddings().any(|embedding| embedding == module))
}

/// LoRA's tensors on an embedding, repeated for the output layer that shares its weight.
pub(crate) fn repeated(
    exported: &BTreeMap<String, TensorData>,
    shapes: &ModelShapes,
) -> BTreeMap<String, TensorData> {
    let mut also = BTreeMap::new();
    for Tie { layer, embedding } in &shapes.ties {
        for (own, other) in [
            ("lora_embedding_B", "lora_A.weight"),
            ("lora_embedding_A", "lora_B.weight"),
        ] {
            if let Some(data) = exported.get(&format!("{MODEL}{embedding}.{own}")) {
                let turned = crate::turning::transposed(data);
                also.insert(format!("{MODEL}{layer}.{other}"), turned);
            }
        }
    }
    also
}
