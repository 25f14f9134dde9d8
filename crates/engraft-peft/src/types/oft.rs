//! OFT, with COFT's constraint, block sharing and the Cayley-Neumann series.

use std::collections::BTreeMap;

use engraft_core::{LayerKind, LayerShape};
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Table, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// y = (x R) W + b with a block-diagonal rotation R.
pub(super) struct Oft;

impl PeftType for Oft {
    fn name(&self) -> &'static str {
        "OFT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["oft"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        kind != LayerKind::Experts
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let number: usize = config.get("r", 0)?;
        let size: usize = config.get("oft_block_size", 32)?;
        let neumann: bool = config.get("use_cayley_neumann", true)?;
        let terms: usize = config.get("num_cayley_neumann_terms", 5)?;
        let constrained: bool = config.get("coft", false)?;
        let eps: f64 = config.get("eps", 6e-5)?;
        let shared: bool = config.get("block_share", false)?;
        let dropout: f64 = config.get("module_dropout", 0.0)?;
        if dropout > 0.0 {
            config.warn(format!(
                "`module_dropout` = {dropout}: PEFT 0.21.2 stores it without applying it; here it acts in training"
            ));
        }
        config.skip(&["init_weights"]);
        let mut overrides = BTreeMap::new();
        let mut first = None;
        for layer in layers {
            let width = rotated(layer);
            // What is adjusted is the size, or the number where that is given.
            let (asked, taken, what) = match (number, size) {
                (0, size) if size > 0 => (size, adjust(width, size), "blocks of size"),
                (number, 0) if number > 0 => {
                    (number, adjust(width, number), "a number of blocks of")
                }
                _ => {
                    return Err(Error::config(
                        "oft_block_size",
                        format!(
                            "found r = {number} and oft_block_size = {size}: exactly one of them must be 0"
                        ),
                    ));
                }
            };
            if taken != asked {
                config.warn(format!(
                    "{}: {what} {asked} does not divide {}; adjusted to {taken} as PEFT does",
                    layer.path, width
                ));
            }
            let block = if number == 0 { taken } else { width / taken };
            if *first.get_or_insert(block) != block {
                overrides.insert(
                    layer.path.clone(),
                    table([("blocks", json!({ "size": block }))]),
                );
            }
        }
        let own = table([
            ("blocks", json!({ "size": first })),
            (
                "cayley",
                if neumann {
                    json!({ "neumann": { "terms": terms } })
                } else {
                    "exact".into()
                },
            ),
            (
                "coft-eps",
                if constrained { eps.into() } else { Value::Null },
            ),
            ("block-share", shared.into()),
            ("parametrisation", "skew".into()),
            ("outputs", "fixed".into()),
            ("dropout", dropout.into()),
            // What PEFT's active adapter computes; merged, it computes something else.
            (
                "convolution",
                if layers.iter().any(is_convolution) {
                    "image".into()
                } else {
                    "kernel".into()
                },
            ),
        ]);
        Ok(Settings {
            method: "oft",
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (parametrisation, outputs): (String, String) = (
            common(layers, "parametrisation")?,
            common(layers, "outputs")?,
        );
        if (parametrisation.as_str(), outputs.as_str()) != ("skew", "fixed") {
            return Err(format!(
                "PEFT trains the triangle of each block and nothing of the outputs; found parametrisation = \"{parametrisation}\" and outputs = \"{outputs}\""
            ));
        }
        if let Some(layer) = layers.iter().find(|layer| is_convolution(&layer.layer))
            && layer.value::<String>("convolution")? != "image"
        {
            return Err(format!(
                "{}: PEFT rotates the image of a convolution and not its kernel; found convolution = \"kernel\"",
                layer.layer.path
            ));
        }
        let sizes = layers
            .iter()
            .map(|layer| Ok((rotated(&layer.layer), block_size(layer)?)))
            .collect::<Result<Vec<_>>>()
            .map_err(|error| error.to_string())?;
        let widest = sizes.iter().map(|(d_in, _)| *d_in).max().unwrap_or(1);
        let fits = |of: fn(usize, usize) -> usize| {
            (1..=widest).find(|asked| {
                sizes
                    .iter()
                    .all(|(d_in, block)| adjust(*d_in, *asked) == of(*d_in, *block))
            })
        };
        // One size of blocks for all layers, or one number.
        let size = fits(|_, block| block);
        let number = fits(|d_in, block| d_in / block.max(1));
        let (number, size) = match (size, number) {
            (Some(size), _) => (0, size),
            (None, Some(number)) => (number, 0),
            (None, None) => {
                return Err(format!(
                    "the layers' block sizes {:?} are none that PEFT would make of one size or one number",
                    sizes.iter().map(|(_, block)| block).collect::<Vec<_>>()
                ));
            }
        };
        let cayley: Value = common(layers, "cayley")?;
        let terms = cayley.pointer("/neumann/terms").and_then(Value::as_u64);
        let eps: Option<f64> = common(layers, "coft-eps")?;
        let keys: Table = table([
            ("r", number.into()),
            ("oft_block_size", size.into()),
            ("use_cayley_neumann", terms.is_some().into()),
            ("num_cayley_neumann_terms", terms.unwrap_or(5).into()),
            ("coft", eps.is_some().into()),
            ("eps", eps.unwrap_or(6e-5).into()),
            ("block_share", common::<bool>(layers, "block-share")?.into()),
            ("module_dropout", common::<f64>(layers, "dropout")?.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let size = block_size(layer)?;
        let number = if layer.get("block-share")? {
            1
        } else {
            rotated(&layer.layer) / size.max(1)
        };
        let key = match layer.layer.kind {
            LayerKind::Embedding => "oft_embedding_R.weight",
            LayerKind::Linear | LayerKind::Conv2d { .. } | LayerKind::Experts => "oft_R.weight",
        };
        Ok(vec![Field::same(
            key,
            "q",
            &[number, size * size.saturating_sub(1) / 2],
        )])
    }
}

fn is_convolution(layer: &LayerShape) -> bool {
    matches!(layer.kind, LayerKind::Conv2d { .. })
}

/// The width that OFT rotates: of the inputs, or of the vectors of an embedding.
fn rotated(layer: &LayerShape) -> usize {
    match layer.kind {
        LayerKind::Embedding => layer.d_out,
        LayerKind::Linear | LayerKind::Conv2d { .. } | LayerKind::Experts => layer.d_in,
    }
}

/// The block size on a layer, given as itself, nearly, or by the number of blocks.
pub(super) fn block_size(layer: &Configured) -> Result<usize> {
    let blocks: Value = layer.get("blocks")?;
    let part = |key: &str| {
        blocks
            .get(key)
            .and_then(Value::as_u64)
            .map(|value| value as usize)
    };
    let width = rotated(&layer.layer);
    let groups = 1 << (layer.get::<Option<usize>>("factors")?.unwrap_or(1).max(1) - 1);
    let fits = |size: &usize| {
        width.is_multiple_of(*size)
            && (groups == 1 || (size.is_multiple_of(2) && (width / size).is_multiple_of(groups)))
    };
    match (part("size"), part("near"), part("number")) {
        (Some(size), ..) => Ok(size),
        (_, Some(near), _) => (2..=width)
            .filter(fits)
            .min_by_key(|size| size.abs_diff(near))
            .ok_or_else(|| Error::Unsupported(format!("{}: no block fits", layer.layer.path))),
        (.., Some(number)) if number > 0 => Ok(width / number),
        _ => Err(Error::Unsupported(format!(
            "{}: blocks {blocks} have no size",
            layer.layer.path
        ))),
    }
}

/// The divisor of `width` that PEFT takes for a size or number of blocks: the nearest, the smaller
/// of two equally near.
fn adjust(width: usize, asked: usize) -> usize {
    if asked >= width {
        return width;
    }
    let divides = |size: &usize| width.is_multiple_of(*size);
    let above = (asked..=width).find(divides).unwrap_or(width);
    let below = (1..=asked).rev().find(divides).unwrap_or(1);
    if asked - below <= above - asked {
        below
    } else {
        above
    }
}

#[cfg(test)]
mod tests {
    use super::adjust;

    #[test]
    fn block_sizes_are_adjusted_as_peft_does() {
        assert_eq!(
            [
                adjust(24, 5),
                adjust(24, 8),
                adjust(24, 7),
                adjust(24, 40),
                adjust(7, 5),
                adjust(31, 8)
            ],
            [4, 8, 6, 24, 7, 1]
        );
    }
}
