//! Configuration and shapes of the vision transformer.

use engraft_core::{Error, LayerKind, ModelShapes, Part, Result, SiteKind};
use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::layer_norm::LayerNorm;

/// Configuration of a [`Vit`](crate::Vit). The default is ViT-B/16 with 1000 classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VitConfig {
    /// Height and width of an image, in pixels.
    pub image: usize,
    /// Height and width of a patch, in pixels.
    pub patch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward sublayer.
    pub mlp_width: usize,
    /// Classes.
    pub classes: usize,
    /// Added to the variance in layer normalisation.
    pub epsilon: f64,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            image: 224,
            patch: 16,
            channels: 3,
            width: 768,
            depth: 12,
            heads: 12,
            mlp_width: 3072,
            classes: 1000,
            epsilon: 1e-6,
        }
    }
}

impl VitConfig {
    /// Number of patches of an image.
    pub fn patches(&self) -> usize {
        (self.image / self.patch).pow(2)
    }

    /// Numbers in a patch.
    pub fn patch_size(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Checks that patches tile the image and heads share the width.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason| {
            Err(Error::BadConfig {
                what: "vit".to_owned(),
                reason,
            })
        };
        let sizes = [
            self.image,
            self.patch,
            self.channels,
            self.width,
            self.depth,
            self.heads,
            self.mlp_width,
            self.classes,
        ];
        if sizes.contains(&0) {
            return bad("found a size of 0, expected at least 1".to_owned());
        }
        if !self.image.is_multiple_of(self.patch) {
            return bad(format!(
                "found patch {}, expected a divisor of image {}",
                self.patch, self.image
            ));
        }
        if !self.width.is_multiple_of(self.heads) {
            return bad(format!(
                "found {} heads, expected a divisor of width {}",
                self.heads, self.width
            ));
        }
        Ok(())
    }

    /// The model as shapes.
    pub fn shapes(&self) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        shapes.push_linear(
            "patch_embedding",
            self.patch_size(),
            self.width,
            true,
            Part::Embedding,
        );
        shapes.layers[0].kind = LayerKind::Conv2d {
            kernel: [self.patch; 2],
        };
        shapes.push_param("class_token", self.width, Part::Embedding, false);
        shapes.push_param(
            "positions",
            (1 + self.patches()) * self.width,
            Part::Embedding,
            false,
        );
        shapes.push_site("embedding", SiteKind::Hidden, self.width);
        let embedding = [
            "patch_embedding.weight",
            "patch_embedding.bias",
            "class_token",
            "positions",
        ];
        shapes.push_fold(
            "embedding",
            embedding.map(str::to_owned).to_vec(),
            Some("positions".to_owned()),
        );
        for index in 0..self.depth {
            Block::push_shapes(&mut shapes, &format!("blocks.{index}"), self);
        }
        LayerNorm::push_shapes(&mut shapes, "norm", self.width);
        shapes.push_linear("head", self.width, self.classes, true, Part::Head);
        shapes
    }
}

/// A small model for tests.
#[cfg(test)]
pub(crate) fn tiny() -> VitConfig {
    VitConfig {
        image: 6,
        patch: 3,
        channels: 2,
        width: 8,
        depth: 2,
        heads: 2,
        mlp_width: 12,
        classes: 3,
        epsilon: 1e-6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let message = |config: VitConfig| config.validate().unwrap_err().to_string();
        assert!(message(VitConfig { patch: 4, ..tiny() }).contains("divisor of image 6"));
        assert!(message(VitConfig { heads: 3, ..tiny() }).contains("divisor of width 8"));
        assert!(message(VitConfig { depth: 0, ..tiny() }).contains("at least 1"));
    }
}
