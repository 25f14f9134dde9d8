//! OSF: orthogonal subspace fine-tuning.

use std::collections::BTreeMap;

use engraft_core::LayerShape;
use fancy_regex::Regex;
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Table, Written, table};
use crate::config::{Patterns, Reader, number};
use crate::error::{Error, Result};
use crate::field::Field;
use crate::targets;

/// y = x (W_high + U diag(s) V) + b, where W_high follows from the weight alone.
pub(super) struct Osf;

impl PeftType for Osf {
    fn name(&self) -> &'static str {
        "OSF"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["osf"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &[
            "bias",
            "fan_in_fan_out",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
        ]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let preserved = match config.find::<Value>("effective_rank")? {
            None => json!({ "share": 0.5 }),
            Some(value) => preserved("effective_rank", &value)?,
        };
        let patterns = config.rank_pattern();
        config.skip(&["init_weights", "target_svd_config"]);
        let mut overrides = BTreeMap::new();
        for layer in layers {
            if let Some(found) = search(&patterns, &layer.path)? {
                let own = preserved_number("rank_pattern", found)?;
                overrides.insert(layer.path.clone(), table([("preserved", own)]));
            }
        }
        Ok(Settings {
            method: "osf",
            config: table([("preserved", preserved)]),
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let value = |layer: &Configured| -> Result<Value, String> {
            let preserved: Value = layer.value("preserved")?;
            match (preserved.get("rank"), preserved.get("share")) {
                (Some(value), _) | (_, Some(value)) => Ok(value.clone()),
                _ => Err(format!(
                    "preserved {preserved} is neither a rank nor a share"
                )),
            }
        };
        let first = value(&layers[0])?;
        let mut rank_pattern = Patterns::default();
        for layer in layers {
            let own = value(layer)?;
            if own != first {
                let own = own.as_f64().unwrap_or_default();
                rank_pattern
                    .0
                    .push((format!("{}$", targets::only(&layer.layer.path)), own));
            }
        }
        let keys: Table = table([
            ("effective_rank", first),
            ("init_weights", true.into()),
            ("target_svd_config", Value::Null),
        ]);
        Ok(Written {
            keys,
            rank_pattern,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, most) = (layer.layer.d_in, layer.layer.d_out, layer.layer.max_rank());
        let preserved: Value = layer.get("preserved")?;
        let kept = match (preserved.get("rank"), preserved.get("share")) {
            (Some(rank), _) => rank.as_u64().unwrap_or_default() as usize,
            (_, share) => (most as f64 * share.and_then(Value::as_f64).unwrap_or(0.5)) as usize,
        };
        let trained = most.saturating_sub(kept);
        Ok(vec![
            Field::same("osf_svd_params.S_low", "s", &[trained]),
            Field::transposed("osf_svd_params.U_low", "v", [d_out, trained]),
            Field::transposed("osf_svd_params.V_low", "u", [trained, d_in]),
        ])
    }
}

/// What PEFT understands by a rank: a fraction up to 1 is a share, the rest a number of triples.
fn preserved(key: &str, value: &Value) -> Result<Value> {
    match value.as_f64() {
        Some(share) if value.is_f64() && share > 0.0 && share <= 1.0 => {
            Ok(json!({ "share": share }))
        }
        Some(rank) if rank >= 1.0 => Ok(json!({ "rank": rank as usize })),
        _ => Err(Error::config(
            key,
            format!("found {value}, expected a rank of at least 1 or a share in (0, 1]"),
        )),
    }
}

/// [`preserved`] of a pattern's value; 1 is a rank, because the share 1 leaves nothing to train.
fn preserved_number(key: &str, value: f64) -> Result<Value> {
    preserved(key, &number(value))
}

/// The value of the first pattern that matches anywhere in the path.
fn search(patterns: &Patterns, path: &str) -> Result<Option<f64>> {
    for (pattern, value) in &patterns.0 {
        let regex = Regex::new(pattern)
            .map_err(|error| Error::config("rank_pattern", format!("`{pattern}`: {error}")))?;
        if regex.is_match(path).unwrap_or(false) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_shares_are_told_apart_as_peft_does() {
        let read = |value: Value| preserved("effective_rank", &value).ok();
        assert_eq!(read(json!(8)), Some(json!({ "rank": 8 })));
        assert_eq!(read(json!(0.25)), Some(json!({ "share": 0.25 })));
        assert_eq!(read(json!(1.0)), Some(json!({ "share": 1.0 })));
        assert_eq!(read(json!(6.0)), Some(json!({ "rank": 6 })));
        assert_eq!(read(json!(0)), None);
        let patterns = Patterns(vec![("fc1".to_owned(), 0.5), ("fc".to_owned(), 3.0)]);
        assert_eq!(search(&patterns, "block.fc1").unwrap(), Some(0.5));
        assert_eq!(search(&patterns, "block.fc2").unwrap(), Some(3.0));
        assert_eq!(search(&patterns, "head").unwrap(), None);
    }
}
