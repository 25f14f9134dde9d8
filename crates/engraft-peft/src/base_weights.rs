//! Weights of the base model in an adapter's file.
//!
//! PEFT saves the frozen weight of an embedding or output layer beside an adapter that targets it,
//! and of both where the vocabulary was resized. They are the model's own: nothing is attached.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::{Adaptable, Adapted, LayerKind, LayerShape, ModelShapes, params};

use crate::error::{Error, Result};
use crate::field::{self, Layout, MODEL};
use crate::pair::Pair;

/// Names of the layers whose weight PEFT saves along when they are targeted.
const SAVED: [&str; 2] = ["embed_tokens", "lm_head"];

/// The frozen weight of a layer under PEFT's key.
fn pair(layer: &LayerShape, shapes: &ModelShapes, key: String) -> Pair {
    let shared = shapes.tied_to(&layer.path);
    let (shape, layout) = match (layer.kind, shared) {
        (LayerKind::Embedding, _) => (vec![layer.d_in, layer.d_out], Layout::Same),
        (_, Some(_)) => (vec![layer.d_out, layer.d_in], Layout::Same),
        _ => (vec![layer.d_out, layer.d_in], Layout::Transposed),
    };
    Pair {
        peft: key,
        own: format!("{}.weight", shared.unwrap_or(&layer.path)),
        shape,
        layout,
    }
}

/// Takes the weights of embeddings and output layers out of a file's tensors, those aside that the
/// adapter trains. They are keyed by the model's paths.
///
/// # Errors
/// Weights of another shape than the model's.
pub(crate) fn take(
    found: &mut BTreeMap<String, TensorData>,
    shapes: &ModelShapes,
    trained: &[String],
) -> Result<BTreeMap<String, TensorData>> {
    let mut pairs = Vec::new();
    for layer in &shapes.layers {
        let weight = format!("{}.weight", layer.path);
        let held = layer.kind == LayerKind::Embedding || shapes.is_head(&layer.path);
        if !held || trained.contains(&weight) {
            continue;
        }
        let keys = [
            format!("{MODEL}{}.base_layer.weight", layer.path),
            format!("{MODEL}{weight}"),
        ];
        let there = keys.into_iter().filter(|key| found.contains_key(key));
        pairs.extend(there.map(|key| pair(layer, shapes, key)));
    }
    let own = pairs
        .iter()
        .filter_map(|pair| found.remove_entry(&pair.peft))
        .collect();
    field::to_own(&pairs, &own)
}

/// Whether the model has these weights.
///
/// # Errors
/// The first that differs.
pub(crate) fn compare<M: Adaptable>(
    adapted: &Adapted<M>,
    weights: &BTreeMap<String, TensorData>,
) -> Result<()> {
    if weights.is_empty() {
        return Ok(());
    }
    let own = params::read(&adapted.model, |path| weights.contains_key(path));
    let same = |(path, data): &(&String, &TensorData)| {
        own.get(*path).is_some_and(|own| {
            let data = (*data).clone().convert_dtype(own.dtype());
            data.as_bytes() == own.as_bytes()
        })
    };
    match weights.iter().find(|entry| !same(entry)) {
        None => Ok(()),
        Some((path, _)) => Err(Error::Tensors(format!(
            "it brings its own {path}, which differs from the model's: load the model that it was trained on"
        ))),
    }
}

/// The weights that PEFT saves along with an adapter on these layers.
pub(crate) fn saved<M: Adaptable>(
    adapted: &Adapted<M>,
    layers: &[LayerShape],
) -> BTreeMap<String, TensorData> {
    let shapes = adapted.model.shapes();
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let pairs: Vec<Pair> = layers
        .iter()
        .filter(|layer| SAVED.contains(&last(&layer.path).as_str()))
        .map(|layer| {
            pair(
                layer,
                &shapes,
                format!("{MODEL}{}.base_layer.weight", layer.path),
            )
        })
        .collect();
    if pairs.is_empty() {
        return BTreeMap::new();
    }
    let own = params::read(&adapted.model, |path| {
        pairs.iter().any(|pair| pair.own == path)
    });
    pairs
        .iter()
        .filter_map(|pair| Some((pair.peft.clone(), pair.to_peft(own.get(&pair.own)?))))
        .collect()
}
