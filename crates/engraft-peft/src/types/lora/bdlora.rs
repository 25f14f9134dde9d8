//! BD-LoRA: A or B block-diagonal, chosen by parts of the layers' paths.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{Configured, Field, Result, Settings, Variant, common, entries, entry, finish};
use crate::error::Error;

pub(super) struct BdLora;

const KEY: &str = "use_bdlora";

impl Variant for BdLora {
    fn key(&self) -> &'static str {
        KEY
    }

    fn method(&self) -> &'static str {
        "bd-lora"
    }

    fn has_offset(&self) -> bool {
        true
    }

    fn read(&self, value: Value, layers: &[LayerShape], settings: &mut Settings) -> Result<()> {
        let mut own = entries(value, KEY)?;
        let mut names = |side| -> Result<Vec<String>> {
            entry(
                &mut own,
                KEY,
                &format!("target_modules_bd_{side}"),
                Vec::new(),
            )
        };
        let (of_a, of_b) = (names("a")?, names("b")?);
        let blocks: usize = entry(&mut own, KEY, "nblocks", 1)?;
        let strict: bool = entry(&mut own, KEY, "match_strict", true)?;
        finish(own, KEY)?;
        settings.config.insert("blocks".to_owned(), blocks.into());
        settings
            .config
            .insert("block-diagonal".to_owned(), "neither".into());
        for layer in layers {
            let is_in =
                |names: &[String]| names.iter().any(|name| layer.path.contains(name.as_str()));
            let side = match (is_in(&of_a), is_in(&of_b)) {
                (true, true) => Err("is meant by target_modules_bd_a and target_modules_bd_b"),
                (false, false) if strict => Err(
                    "is meant by neither target_modules_bd_a nor target_modules_bd_b, and match_strict is true",
                ),
                (false, false) => continue,
                (true, false) => Ok("a"),
                (false, true) => Ok("b"),
            };
            let side =
                side.map_err(|reason| Error::config(KEY, format!("{} {reason}", layer.path)))?;
            let overrides = settings.overrides.entry(layer.path.clone()).or_default();
            overrides.insert("block-diagonal".to_owned(), side.into());
            if side == "b" {
                // A block-diagonal B of PEFT has no offset.
                overrides.insert("bias".to_owned(), false.into());
            }
        }
        Ok(())
    }

    fn write(&self, layers: &[Configured]) -> Result<Value, String> {
        let sides = layers
            .iter()
            .map(|layer| layer.value::<String>("block-diagonal"))
            .collect::<Result<Vec<_>, _>>()?;
        let at = |side: &str| {
            let paths = layers.iter().map(|layer| layer.layer.path.as_str());
            let chosen: Vec<&str> = paths
                .zip(&sides)
                .filter(|(_, own)| *own == side)
                .map(|(path, _)| path)
                .collect();
            chosen
        };
        let (of_a, of_b, neither) = (at("a"), at("b"), at("neither"));
        for (chosen, others) in [(&of_a, [&of_b, &neither]), (&of_b, [&of_a, &neither])] {
            for path in others.into_iter().flatten() {
                if let Some(part) = chosen.iter().find(|part| path.contains(**part)) {
                    return Err(format!(
                        "PEFT chooses by parts of paths, and {part} is a part of {path}"
                    ));
                }
            }
        }
        if let Some(layer) = layers
            .iter()
            .zip(&sides)
            .find(|(layer, side)| side.as_str() == "b" && super::has_bias(layer))
        {
            return Err(format!(
                "a block-diagonal B has no offset in PEFT, and {} trains one",
                layer.0.layer.path
            ));
        }
        if layers.iter().any(super::has_bias)
            && layers
                .iter()
                .zip(&sides)
                .any(|(layer, side)| side != "b" && !super::has_bias(layer))
        {
            return Err("`bias` differs between layers, and PEFT has one for all".to_owned());
        }
        let list = |paths: Vec<&str>| {
            if paths.is_empty() {
                Value::Null
            } else {
                json!(paths)
            }
        };
        Ok(json!({
            "nblocks": common::<usize>(layers, "blocks")?,
            "match_strict": neither.is_empty(),
            "target_modules_bd_a": list(of_a),
            "target_modules_bd_b": list(of_b),
        }))
    }

    fn fields(&self, layer: &Configured, lora: Vec<Field>) -> Result<Vec<Field>> {
        let (blocks, side): (usize, String) = (layer.get("blocks")?, layer.get("block-diagonal")?);
        let cut = |mut field: Field| {
            if field.own == side {
                field.shape[1] /= blocks.max(1);
            }
            field
        };
        Ok(lora.into_iter().map(cut).collect())
    }
}
