//! One adapted layer at any size.

use engraft_core::{Error, Result};

use crate::shapes::Shapes;
use crate::training::{Training, chosen};

/// A step of one layer with `value` on the axis; the axes are described in `shapes.toml`.
///
/// # Errors
/// An unknown axis or method, or a method that does not admit the layer.
pub fn layer(axis: &str, method: &str, value: usize) -> Result<Training> {
    let mut shapes = Shapes::load();
    let (key, configured) = match axis {
        "rank" => ("rank", serde_json::json!(value)),
        "block" => ("blocks", serde_json::json!({ "size": value })),
        _ => ("", serde_json::Value::Null),
    };
    let known = shapes.method.iter_mut().find(|known| known.name == method);
    if let Some(method) = known.filter(|_| !key.is_empty()) {
        method.config[key] = configured;
    }
    let method = chosen(&shapes, method)?;
    let (dims, tokens) = match axis {
        "inputs" => ([value, 256], [1, 256]),
        "width" => ([value, value], [1, 64]),
        "tokens" => ([768, 768], [1, value]),
        "rank" | "block" => ([1024, 1024], [1, 512]),
        other => return Err(Error::Unsupported(format!("no axis called {other}"))),
    };
    Training::new(&dims, tokens, method.as_ref(), true)
}
