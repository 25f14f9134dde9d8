//! Which weights are quantised, and what that costs.

use engraft_core::layer_index;

/// A layer whose weight was quantised.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantisedLayer {
    /// Path of the layer.
    pub path: String,
    /// Bytes of the weight now.
    pub bytes: usize,
    /// Bytes of the weight as numbers of the model's precision.
    pub dense_bytes: usize,
    /// Square of the Frobenius norm of what was lost.
    pub lost: f64,
    /// That of the weight.
    pub norm: f64,
}

impl QuantisedLayer {
    /// Relative error of the weight, in the Frobenius norm.
    pub fn error(&self) -> f64 {
        relative(self.lost, self.norm)
    }

    /// Relative error of all layers together.
    pub fn total_error(layers: &[Self]) -> f64 {
        let sum = |of: fn(&Self) -> f64| layers.iter().map(of).sum();
        relative(sum(|layer| layer.lost), sum(|layer| layer.norm))
    }

    /// The layer with the largest relative error.
    pub fn worst(layers: &[Self]) -> Option<&Self> {
        layers.iter().max_by(|a, b| a.error().total_cmp(&b.error()))
    }
}

fn relative(lost: f64, norm: f64) -> f64 {
    match norm {
        0.0 => 0.0,
        _ => (lost / norm).sqrt(),
    }
}

/// The layer of a weight that is quantised where a model is, and its block: one inside a block.
/// Embeddings, poolers and heads are in none.
pub(super) fn layer_of(path: &str) -> Option<(&str, usize)> {
    let layer = path.strip_suffix(".weight")?;
    Some((layer, layer_index(layer)?))
}
