//! Models that ship with their weights.

use crate::vit::VitConfig;

/// The configuration of the digits ViT: 8x8 grey images, patches of 2x2, 10 classes.
pub fn digits_vit_config() -> VitConfig {
    VitConfig { image: 8, patch: 2, channels: 1, width: 48, depth: 3, heads: 4, mlp_width: 96, classes: 10, epsilon: 1e-6 }
}
