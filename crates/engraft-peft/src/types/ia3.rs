//! IA3: (IA)^3, on the outputs of a layer or, for feed-forward layers, on its inputs.

use std::collections::BTreeMap;

use engraft_core::{LayerKind, LayerShape};

use super::{Configured, PeftType, Settings, Written, table};
use crate::config::Reader;
use crate::error::Result;
use crate::field::Field;
use crate::targets::{Matcher, Names, OneOrMany, only};

/// y = (x W + b) . l, or y = (x . l) W + b.
pub(super) struct Ia3;

impl PeftType for Ia3 {
    fn name(&self) -> &'static str {
        "IA3"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["ia3"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias", "layers_to_transform", "layers_pattern"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Conv2d { .. })
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        config.skip(&["init_ia3_weights"]);
        let feedforward: Matcher = match config.find::<Names>("feedforward_modules")? {
            None => Box::new(|_| false),
            // Unlike targets, these names end a path anywhere, not only at a dot.
            Some(OneOrMany::Many(names)) => {
                Box::new(move |path| names.iter().any(|name| path.ends_with(name.as_str())))
            }
            Some(pattern) => pattern.matcher("feedforward_modules")?,
        };
        let scales = |path: &str| if feedforward(path) { "input" } else { "output" };
        let first = layers.first().map_or("output", |layer| scales(&layer.path));
        let differs = |layer: &&LayerShape| scales(&layer.path) != first;
        let overrides: BTreeMap<_, _> = layers
            .iter()
            .filter(differs)
            .map(|layer| {
                (
                    layer.path.clone(),
                    table([("scales", scales(&layer.path).into())]),
                )
            })
            .collect();
        Ok(Settings {
            method: "ia3",
            config: table([("scales", first.into())]),
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let mut feedforward = Vec::new();
        for layer in layers {
            if layer.value::<String>("scales")? == "input" {
                feedforward.push(only(&layer.layer.path));
            }
        }
        // An expression, because a list of names is matched at any end of a path.
        let feedforward = if feedforward.is_empty() {
            Vec::<String>::new().into()
        } else {
            feedforward.join("|").into()
        };
        Ok(Written {
            keys: table([
                ("feedforward_modules", feedforward),
                ("init_ia3_weights", true.into()),
            ]),
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let kind = layer.layer.kind;
        let input = layer.get::<String>("scales")? == "input";
        let width = if input {
            layer.layer.d_in / kind.pixels()
        } else {
            layer.layer.d_out
        };
        let shape = match (kind, input) {
            (LayerKind::Conv2d { .. }, _) => vec![1, width, 1, 1],
            (_, true) => vec![1, width],
            (_, false) => vec![width, 1],
        };
        Ok(vec![Field::reshaped("ia3_l", "l", &shape, &[width])])
    }
}
