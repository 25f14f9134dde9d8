//! Parameters of the model itself in an adapter: biases, and modules saved whole.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;
use engraft_core::{LayerKind, LayerShape, ModelShapes};

use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::{Layout, MODEL};
use crate::pair::Pair;
use crate::tokens::{ByPath, Tokens};

/// Which biases are trained along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Biases {
    None,
    All,
    /// Those of the adapted layers: `lora_only`, `boft_only` and so on.
    Adapted,
}

/// What of the model itself is trained along.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extras {
    pub(crate) biases: Biases,
    pub(crate) modules: Vec<String>,
    /// Whether the adapted layers store their weight as (in, out).
    pub(crate) fan_in_fan_out: bool,
    /// Tokens of embeddings.
    pub(crate) tokens: Option<Tokens>,
}

/// The module that holds a parameter.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Whether a parameter lies in a module whose path ends in one of the names, as PEFT compares them.
pub(crate) fn is_saved(param: &str, modules: &[String]) -> bool {
    let mut module = parent(param);
    while !module.is_empty() {
        if modules.iter().any(|name| module.ends_with(name.as_str())) {
            return true;
        }
        module = parent(module);
    }
    false
}

impl Extras {
    pub(crate) fn read(config: &mut Reader) -> Result<Self> {
        let biases = match config.get("bias", "none".to_owned())?.as_str() {
            "none" => Biases::None,
            "all" => Biases::All,
            only if only.ends_with("_only") => Biases::Adapted,
            other => {
                return Err(Error::config(
                    "bias",
                    format!("found `{other}`, expected none, all or (type)_only"),
                ));
            }
        };
        Ok(Self {
            biases,
            modules: config.get("modules_to_save", Vec::new())?,
            fan_in_fan_out: config.get("fan_in_fan_out", false)?,
            tokens: Tokens::read(config)?,
        })
    }

    /// The tokens that are trained along, by the path of their layer.
    ///
    /// # Errors
    /// A layer that the model lacks.
    pub(crate) fn tokens(&self, shapes: &ModelShapes) -> Result<ByPath> {
        match &self.tokens {
            Some(tokens) => tokens.clone().by_path(shapes),
            None => Ok(ByPath::new()),
        }
    }

    /// Paths of the parameters, in the model's order.
    ///
    /// # Errors
    /// A module to save that the model lacks.
    pub(crate) fn params(
        &self,
        shapes: &ModelShapes,
        layers: &[LayerShape],
    ) -> Result<Vec<String>> {
        let paths = || shapes.params.iter().map(|param| param.path.as_str());
        let has = |module: &String| {
            let mut paths = paths();
            paths.any(|path| is_saved(path, std::slice::from_ref(module)))
        };
        // PEFT adds the names of any model's classifier, so that some may match nothing.
        if let (Some(module), false) = (self.modules.first(), self.modules.iter().any(has)) {
            return Err(Error::config(
                "modules_to_save",
                format!(
                    "`{module}` matches no module{}",
                    engraft_tensor::suggestion(module, paths().map(parent))
                ),
            ));
        }
        let biased = |path: &str| match self.biases {
            Biases::None => false,
            Biases::All => path.ends_with(".bias"),
            Biases::Adapted => {
                path.ends_with(".bias") && layers.iter().any(|layer| layer.path == parent(path))
            }
        };
        Ok(paths()
            .filter(|path| biased(path) || is_saved(path, &self.modules))
            .map(str::to_owned)
            .collect())
    }

    /// The tensors of these parameters. `found` decides how a weight is stored where its shape can.
    pub(crate) fn pairs(
        &self,
        params: &[String],
        shapes: &ModelShapes,
        adapted: &[LayerShape],
        found: &BTreeMap<String, TensorData>,
    ) -> Vec<Pair> {
        let pair = |path: &String| {
            let (module, last) = path.rsplit_once('.').unwrap_or(("", path));
            // The bias of an adapted layer sits inside PEFT's wrapper.
            let wrapped = last == "bias" && adapted.iter().any(|layer| layer.path == module);
            let peft = if wrapped {
                format!("{MODEL}{module}.base_layer.bias")
            } else {
                format!("{MODEL}{path}")
            };
            let numel = shapes
                .params
                .iter()
                .find(|param| param.path == *path)
                .map_or(0, |param| param.numel);
            let stored = found.get(&peft).map(|data| data.shape().to_vec());
            let weight = shapes
                .layers
                .iter()
                .find(|layer| last == "weight" && layer.path == module);
            let (shape, layout) = match weight {
                Some(layer)
                    if layer.kind == LayerKind::Embedding
                        || self.is_in_out(
                            layer,
                            stored.as_deref(),
                            shapes.is_head(&layer.path),
                        ) =>
                {
                    (vec![layer.d_in, layer.d_out], Layout::Same)
                }
                Some(layer) => (vec![layer.d_out, layer.d_in], Layout::Transposed),
                // Shapes of other parameters are not known here: the model compares them.
                None => (
                    stored
                        .filter(|shape| shape.iter().product::<usize>() == numel)
                        .unwrap_or(vec![numel]),
                    Layout::Same,
                ),
            };
            Pair {
                peft,
                own: format!("model.{path}"),
                shape,
                layout,
            }
        };
        params.iter().map(pair).collect()
    }

    fn is_in_out(&self, layer: &LayerShape, stored: Option<&[usize]>, head: bool) -> bool {
        match stored {
            Some(stored) if layer.d_in != layer.d_out => stored == [layer.d_in, layer.d_out],
            _ => self.fan_in_fan_out && !head,
        }
    }

    /// What PEFT has to be told so that it trains exactly these parameters.
    ///
    /// # Errors
    /// Parameters that PEFT cannot select, as a reason.
    pub(crate) fn of(
        params: &[String],
        shapes: &ModelShapes,
        layers: &[LayerShape],
        fan_in_fan_out: bool,
    ) -> Result<Self, String> {
        let chosen: BTreeSet<&str> = params.iter().map(String::as_str).collect();
        let plain = |biases| Self {
            biases,
            modules: Vec::new(),
            fan_in_fan_out,
            tokens: None,
        };
        let candidates = [Biases::None, Biases::Adapted, Biases::All]
            .into_iter()
            .filter_map(|biases| {
                let with_biases = plain(biases);
                let covered: BTreeSet<String> = with_biases
                    .params(shapes, layers)
                    .ok()?
                    .into_iter()
                    .collect();
                let modules: BTreeSet<&str> = chosen
                    .iter()
                    .filter(|path| !covered.contains(**path))
                    .map(|path| parent(path))
                    .collect();
                Some(Self {
                    modules: modules.into_iter().map(str::to_owned).collect(),
                    ..with_biases
                })
            });
        let exact = |extras: &Self| {
            extras.params(shapes, layers).is_ok_and(|found| {
                found
                    .iter()
                    .map(String::as_str)
                    .eq(chosen_in_order(shapes, &chosen))
            })
        };
        let conflict = |extras: &Self| {
            extras
                .modules
                .iter()
                .any(|module| layers.iter().any(|layer| layer.path == *module))
        };
        candidates.into_iter().find(|extras| exact(extras) && !conflict(extras)).ok_or_else(|| {
            format!("it trains {} of the model, and PEFT trains whole modules that are not adapted, all biases, or those of adapted layers", params.join(", "))
        })
    }
}

fn chosen_in_order<'a>(
    shapes: &'a ModelShapes,
    chosen: &BTreeSet<&str>,
) -> impl Iterator<Item = &'a str> {
    shapes
        .params
        .iter()
        .map(|param| param.path.as_str())
        .filter(|path| chosen.contains(path))
}

#[cfg(test)]
mod tests {
    use engraft_core::Part;

    use super::*;

    fn shapes() -> ModelShapes {
        let mut shapes = ModelShapes::default();
        shapes.push_linear("fc1", 4, 6, true, Part::Body);
        shapes.push_linear("fc2", 6, 3, true, Part::Head);
        shapes
    }

    #[test]
    fn what_is_written_selects_what_was_trained() {
        let shapes = shapes();
        let adapted = &shapes.layers[..1];
        for (params, biases, modules) in [
            (vec![], Biases::None, vec![]),
            (vec!["fc1.bias"], Biases::Adapted, vec![]),
            (vec!["fc1.bias", "fc2.bias"], Biases::All, vec![]),
            (vec!["fc2.weight", "fc2.bias"], Biases::None, vec!["fc2"]),
            (
                vec!["fc1.bias", "fc2.weight", "fc2.bias"],
                Biases::Adapted,
                vec!["fc2"],
            ),
        ] {
            let params: Vec<String> = params.into_iter().map(str::to_owned).collect();
            let extras = Extras::of(&params, &shapes, adapted, false).unwrap();
            assert_eq!(
                (
                    extras.biases,
                    extras.modules.iter().map(String::as_str).collect()
                ),
                (biases, modules),
                "{params:?}"
            );
            assert_eq!(extras.params(&shapes, adapted).unwrap(), params);
        }
        assert!(Extras::of(&["fc1.weight".to_owned()], &shapes, adapted, false).is_err());
    }
}
