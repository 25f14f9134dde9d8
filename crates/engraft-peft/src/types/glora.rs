//! GLORA: GLoRA, of whose combinations PEFT has those where A is like B and D like E.

use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// W' = W + W . A + B, b' = b + b . D + E + C^T W.
pub(super) struct Glora;

/// PEFT's key, and the paths here that it decides.
const KEYS: [(&str, [&str; 2]); 3] = [
    ("config_A_B", ["a", "b"]),
    ("config_C", ["c", "c"]),
    ("config_D_E", ["d", "e"]),
];

impl PeftType for Glora {
    fn name(&self) -> &'static str {
        "GLORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["glora"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &[
            "exclude_modules",
            "fan_in_fan_out",
            "layers_pattern",
            "layers_to_transform",
        ]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let mut own = table([("rank", config.get("r", 8_usize)?.into())]);
        for (key, paths) in KEYS {
            let (default, allowed): (&str, &[&str]) = match key {
                "config_A_B" => ("lora", &["lora", "vector", "constant", "none"]),
                "config_C" => ("lora", &["lora", "vector", "none"]),
                _ => ("constant", &["vector", "constant", "none"]),
            };
            let found: String = config.get(key, default.to_owned())?;
            if !allowed.contains(&found.as_str()) {
                return Err(Error::config(
                    key,
                    format!("found `{found}`, expected one of {}", allowed.join(", ")),
                ));
            }
            own.extend(paths.map(|path| (path.to_owned(), found.clone().into())));
        }
        config.skip(&["init_weights"]);
        Ok(Settings {
            method: "glora",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let mut keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("init_weights", true.into()),
        ]);
        for (key, [first, second]) in KEYS {
            let (one, other): (String, String) = (common(layers, first)?, common(layers, second)?);
            if one != other {
                return Err(format!(
                    "`{first}` is `{one}` and `{second}` is `{other}`, and PEFT has one `{key}`"
                ));
            }
            keys.insert(key.to_owned(), one.into());
        }
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out) = (layer.layer.d_in, layer.layer.d_out);
        let rank = layer.get::<usize>("rank")?;
        let mut fields = Vec::new();
        for (path, upper) in ["a", "b", "c", "d", "e"].into_iter().zip("ABCDE".chars()) {
            let there = |name: &str| format!("glora_{upper}.{name}");
            let here = |name: &str| format!("{path}.{name}");
            let matrix = matches!(path, "a" | "b");
            let kind = if matrix || layer.layer.bias {
                layer.get::<String>(path)?
            } else {
                "none".to_owned()
            };
            // The shape of the whole in PEFT.
            let whole: &[usize] = match path {
                "a" | "b" => &[d_out, d_in],
                "c" => &[d_in, 1],
                _ => &[d_out],
            };
            match (kind.as_str(), matrix) {
                ("lora", true) => fields.extend([
                    Field::transposed(there("Xd"), here("xd"), [d_out, rank]),
                    Field::transposed(there("Xu"), here("xu"), [rank, d_in]),
                ]),
                ("lora", false) => fields.extend([
                    Field::same(there("Xd"), here("xd"), &[d_in, rank]),
                    Field::same(there("Xu"), here("xu"), &[rank, 1]),
                ]),
                ("vector", true) => fields.push(Field::reshaped(
                    there("X"),
                    here("x"),
                    &[d_out, 1],
                    &[d_out],
                )),
                ("vector", false) => {
                    fields.push(Field::reshaped(there("X"), here("x"), whole, &whole[..1]))
                }
                ("constant", _) => fields.push(Field::same(there("X"), here("x"), &[1])),
                _ => fields.push(Field::zeros(there("zeros"), whole)),
            }
        }
        Ok(fields)
    }
}
