//! Which layers have planes to map.

use engraft_core::LayerShape;

/// Whether a layer has a pair of inputs to rotate: the reason if not.
pub(crate) fn admit_pairs(layer: &LayerShape) -> Result<(), String> {
    if layer.d_in >= 2 {
        Ok(())
    } else {
        Err(format!(
            "d_in = {} has no pair of inputs to rotate; expected at least 2",
            layer.d_in
        ))
    }
}
