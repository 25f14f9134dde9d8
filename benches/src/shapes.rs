//! The shapes and methods that are timed.

use engraft_core::AnyMethod;
use serde::Deserialize;

/// A layer shape from `shapes.toml`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Rows of the input.
    pub tokens: usize,
    /// Inputs.
    pub d_in: usize,
    /// Outputs.
    pub d_out: usize,
}

/// A network of linear layers with GELU between them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// What cases call it.
    pub name: String,
    /// Widths from input to output.
    pub dims: Vec<usize>,
}

/// A method as the comparison configures it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// What cases call it.
    pub name: String,
    /// Its id in the registry.
    pub id: String,
    /// Its configuration.
    pub config: serde_json::Value,
}

impl Method {
    /// The registered method.
    ///
    /// # Errors
    /// What the registry says of the id or the configuration.
    pub fn registered(&self) -> engraft_core::Result<AnyMethod> {
        engraft::method(&self.id, &self.config)
    }
}

/// Sizes along an axis and the exponent that is expected there; the comparison walks along it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// What is varied.
    pub axis: String,
    /// Sizes.
    pub values: Vec<usize>,
    /// Exponent of the structure's cost.
    pub expected: f64,
    /// Methods, by the names of [`Method`].
    pub methods: Vec<String>,
}

/// Everything that `shapes.toml` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shapes {
    /// Layers, in order.
    pub layer: Vec<Layer>,
    /// Networks of the comparison.
    pub net: Vec<Net>,
    /// Methods of the comparison.
    pub method: Vec<Method>,
    /// How costs are expected to grow.
    pub growth: Vec<Axis>,
}

impl Shapes {
    /// The shapes of `shapes.toml`.
    ///
    /// # Panics
    /// If the file is malformed.
    pub fn load() -> Self {
        toml::from_str(include_str!("../shapes.toml")).expect("shapes.toml is valid")
    }

    /// The network of this name.
    pub fn net(&self, name: &str) -> Option<&Net> {
        self.net.iter().find(|net| net.name == name)
    }

    /// The method of this name.
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.method.iter().find(|method| method.name == name)
    }
}
