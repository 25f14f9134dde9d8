//! BOFT.

use std::collections::BTreeMap;

use engraft_core::{LayerKind, LayerShape};
use serde_json::json;

use super::oft::block_size;
use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// y = (x B_m ... B_1) W diag(s) + b with butterfly factors B_i.
pub(super) struct Boft;

impl PeftType for Boft {
    fn name(&self) -> &'static str {
        "BOFT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["boft"]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Conv2d { .. })
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let size: usize = config.get("boft_block_size", 4)?;
        let number: usize = config.get("boft_block_num", 0)?;
        let factors: usize = config.get("boft_n_butterfly_factor", 1)?;
        let dropout: f64 = config.get("boft_dropout", 0.0)?;
        config.skip(&["init_weights"]);
        let mut overrides = BTreeMap::new();
        let mut first = None;
        for layer in layers {
            let block = match (size, number) {
                (size, 0) if size > 0 => size,
                (0, number) if number > 0 && layer.d_in.is_multiple_of(number) => {
                    layer.d_in / number
                }
                (0, number) if number > 0 => {
                    return Err(Error::config(
                        "boft_block_num",
                        format!(
                            "{number} blocks do not divide the {} inputs of {}",
                            layer.d_in, layer.path
                        ),
                    ));
                }
                _ => {
                    return Err(Error::config(
                        "boft_block_size",
                        format!(
                            "found boft_block_size = {size} and boft_block_num = {number}: exactly one of them must be 0"
                        ),
                    ));
                }
            };
            if *first.get_or_insert(block) != block {
                overrides.insert(
                    layer.path.clone(),
                    table([("blocks", json!({ "size": block }))]),
                );
            }
        }
        let own = table([
            ("blocks", json!({ "size": first })),
            ("factors", factors.into()),
            ("parametrisation", "full".into()),
            ("outputs", "scale".into()),
            ("dropout", dropout.into()),
        ]);
        Ok(Settings {
            method: "boft",
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let sizes = layers
            .iter()
            .map(block_size)
            .collect::<Result<Vec<_>>>()
            .map_err(|error| error.to_string())?;
        let numbers: Vec<usize> = layers
            .iter()
            .zip(&sizes)
            .map(|(layer, size)| layer.layer.d_in / size.max(&1))
            .collect();
        let (parametrisation, outputs): (String, String) = (
            common(layers, "parametrisation")?,
            common(layers, "outputs")?,
        );
        if (parametrisation.as_str(), outputs.as_str()) != ("full", "scale") {
            return Err(format!(
                "PEFT trains whole blocks and a scale of the outputs; found parametrisation = \"{parametrisation}\" and outputs = \"{outputs}\""
            ));
        }
        let alike = |values: &[usize]| values.iter().all(|value| *value == values[0]);
        let (size, number) = match (alike(&sizes), alike(&numbers)) {
            (true, _) => (sizes[0], 0),
            (false, true) => (0, numbers[0]),
            (false, false) => {
                return Err(format!(
                    "the layers have blocks of {sizes:?}, and PEFT has one size or one number for all"
                ));
            }
        };
        let keys = table([
            ("boft_block_size", size.into()),
            ("boft_block_num", number.into()),
            (
                "boft_n_butterfly_factor",
                common::<usize>(layers, "factors")?.into(),
            ),
            ("boft_dropout", common::<f64>(layers, "dropout")?.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (size, factors, d_out): (usize, usize, usize) =
            (block_size(layer)?, layer.get("factors")?, layer.layer.d_out);
        let number = layer.layer.d_in / size.max(1);
        // PEFT lays the scale of a convolution along the other side.
        let scale = match layer.layer.kind {
            LayerKind::Conv2d { .. } => [1, d_out],
            LayerKind::Linear | LayerKind::Embedding | LayerKind::Experts => [d_out, 1],
        };
        Ok(vec![
            Field::reshaped(
                "boft_R",
                "a",
                &[factors, number, size, size],
                &[factors, number, size * size],
            ),
            Field::reshaped("boft_s", "outputs.s", &scale, &[d_out]),
        ])
    }
}
