//! The registry's lines: methods before they are configured.

use engraft_tensor::suggestion;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::meta::MethodMeta;
use crate::method::{AnyMethod, Method};
use crate::shape::LayerShape;
use crate::targets::Targets;

/// A line of the registry.
#[derive(Debug, Clone, Copy)]
pub struct MethodEntry {
    /// What the method declares about itself.
    pub meta: &'static MethodMeta,
    parse: fn(&Value) -> Result<AnyMethod>,
    examples: fn(&LayerShape) -> Vec<Value>,
    pub(crate) usual_targets: fn(&str) -> Option<Targets>,
}

impl MethodEntry {
    /// The line of a method.
    pub const fn of<C: Method>() -> Self {
        Self {
            meta: const { &C::META },
            parse: parse::<C>,
            examples: |layer| {
                C::examples(layer)
                    .iter()
                    .map(|config| serde_json::to_value(config).expect("plain data"))
                    .collect()
            },
            usual_targets: C::usual_targets,
        }
    }

    /// A configured method from a table of configuration keys; keys left out have their defaults.
    ///
    /// # Errors
    /// Unknown keys (the message names the nearest), wrong types, senseless values.
    pub fn parse(&self, config: &Value) -> Result<AnyMethod> {
        (self.parse)(config)
    }

    /// Configurations for the contract suite; see [`Method::examples`].
    pub fn examples(&self, layer: &LayerShape) -> Vec<AnyMethod> {
        (self.examples)(layer)
            .iter()
            .map(|config| self.parse(config).expect("examples are valid"))
            .collect()
    }
}

fn parse<C: Method>(config: &Value) -> Result<AnyMethod> {
    let id = C::META.id;
    let known = serde_json::to_value(C::default()).expect("plain data");
    let known: Vec<&str> = known
        .as_object()
        .into_iter()
        .flat_map(|table| table.keys())
        .map(String::as_str)
        .collect();
    let table = match config {
        Value::Null => serde_json::Map::new(),
        Value::Object(table) => table.clone(),
        other => {
            return Err(Error::BadConfig {
                what: id.to_owned(),
                reason: format!("expected a table of keys, found {other}"),
            });
        }
    };
    if let Some(found) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Error::UnknownKey {
            method: id.to_owned(),
            found: found.clone(),
            known: if known.is_empty() {
                "no keys".to_owned()
            } else {
                known.join(", ")
            },
            suggestion: if known.is_empty() {
                String::new()
            } else {
                suggestion(found, known.iter().copied())
            },
        });
    }
    let config: C =
        serde_json::from_value(Value::Object(table)).map_err(|error| Error::BadConfig {
            what: id.to_owned(),
            reason: error.to_string(),
        })?;
    AnyMethod::new(&config)
}
