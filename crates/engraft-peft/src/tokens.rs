//! Tokens of an embedding that are trained beside an adapter: `trainable_token_indices`.

use std::collections::BTreeMap;

use engraft_core::{LayerKind, LayerShape, ModelShapes};
use engraft_tensor::suggestion;
use serde::Deserialize;
use serde_json::Value;

use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Layout;
use crate::pair::Pair;

/// The key of the configuration.
pub(crate) const KEY: &str = "trainable_token_indices";

/// Tokens of the input embedding, or by the name of a layer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Tokens {
    Input(Vec<usize>),
    Named(BTreeMap<String, Vec<usize>>),
}

/// By path.
pub(crate) type ByPath = BTreeMap<String, Vec<usize>>;

impl Tokens {
    pub(crate) fn read(config: &mut Reader) -> Result<Option<Self>> {
        config.find(KEY)
    }

    /// Whether two layers have tokens of their own each.
    pub(crate) fn differ(&self, one: &str, other: &str) -> bool {
        let Self::Named(named) = self else {
            return false;
        };
        let of = |path: &str| {
            let found = named.iter().find(|(name, _)| path.ends_with(name.as_str()));
            found.map(|(_, tokens)| tokens)
        };
        matches!((of(one), of(other)), (Some(one), Some(other)) if one != other)
    }

    /// The layers meant: the first embedding, or all whose path ends in a name.
    ///
    /// # Errors
    /// A name that matches no layer. An output layer that shares the weight of an embedding which is
    /// named too follows that: it has to have the same tokens.
    pub(crate) fn by_path(self, shapes: &ModelShapes) -> Result<ByPath> {
        let embedding = |layer: &&LayerShape| layer.kind == LayerKind::Embedding;
        let named = match self {
            Self::Input(tokens) => {
                let first = shapes.layers.iter().find(embedding);
                let first =
                    first.ok_or_else(|| Error::config(KEY, "the model has no embedding"))?;
                return Ok(BTreeMap::from([(first.path.clone(), tokens)]));
            }
            Self::Named(named) => named,
        };
        let mut found = BTreeMap::new();
        for (name, tokens) in &named {
            let layers: Vec<&LayerShape> = shapes
                .layers
                .iter()
                .filter(|layer| layer.path.ends_with(name.as_str()))
                .collect();
            let embedding = layers.iter().find_map(|layer| shapes.tied_to(&layer.path));
            let of_embedding = embedding.and_then(|path| {
                let mut others = named.iter().filter(|(other, _)| *other != name);
                others.find(|(other, _)| path.ends_with(other.as_str()))
            });
            match of_embedding {
                Some((_, same)) if same == tokens => continue,
                Some((other, _)) => {
                    return Err(Error::config(
                        KEY,
                        format!(
                            "`{name}` shares the weight of `{other}`, expected the same tokens"
                        ),
                    ));
                }
                None => {}
            }
            if layers.is_empty() {
                let paths = shapes.layers.iter().map(|layer| layer.path.as_str());
                return Err(Error::config(
                    KEY,
                    format!("`{name}` matches no layer{}", suggestion(name, paths)),
                ));
            }
            found.extend(
                layers
                    .into_iter()
                    .map(|layer| (layer.path.clone(), tokens.clone())),
            );
        }
        Ok(found)
    }
}

/// The tensors of the tokens of an adapter called `name`.
pub(crate) fn pairs(tokens: &ByPath, shapes: &ModelShapes, name: &str) -> Vec<Pair> {
    let pair = |layer: &LayerShape| {
        let own = tokens.get(&layer.path)?;
        let width = match layer.kind {
            LayerKind::Embedding => layer.d_out,
            _ => layer.d_in,
        };
        Some(Pair::on_layer(
            layer,
            name,
            ["token_adapter.trainable_tokens_delta", "rows"],
            &[own.len(), width],
            Layout::Same,
        ))
    };
    shapes.layers.iter().filter_map(pair).collect()
}

/// What is written for these tokens.
pub(crate) fn to_json(tokens: &ByPath) -> Value {
    serde_json::to_value(tokens).expect("plain data")
}
