//! Images to tokens.

use burn::module::Param;
use burn::tensor::Tensor;
use engraft_core::{Ctx, Linear, Site};

use super::config::HfVitConfig;
use crate::parts::{Builder, Dropout, model_part};

/// [class; patches W + b] + positions.
#[derive(Debug, Clone)]
pub struct ImageEmbeddings {
    /// The class token, [1, 1, width].
    pub class_token: Param<Tensor<3>>,
    /// Learned positions of class token and patches, [1, 1 + patches, width].
    pub positions: Param<Tensor<3>>,
    /// A convolution without overlap: [channels * patch height * patch width, width].
    pub projection: Linear,
    /// The embedded tokens.
    pub output: Site,
    dropout: Dropout,
    image: [usize; 2],
    patch: [usize; 2],
    channels: usize,
}

model_part!(ImageEmbeddings, this {
    class_token => "cls_token",
    positions => "position_embeddings",
    projection => "patch_embeddings.projection",
    output => "patch_embeddings.output",
} plain { dropout, image, patch, channels });

impl ImageEmbeddings {
    pub(super) fn new(config: &HfVitConfig, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within("embeddings");
        let (keys, width) = (&config.keys, config.keys.hidden_size);
        let [rows, columns] = config.grid();
        let kernel = [keys.num_channels, config.patch[0], config.patch[1]];
        Self {
            class_token: builder.normal("cls_token", [1, 1, width]),
            positions: builder.normal("position_embeddings", [1, 1 + rows * columns, width]),
            projection: builder.patches("patch_embeddings.projection", kernel, width),
            output: Site::default(),
            dropout: Dropout::new(builder.path(), keys.hidden_dropout_prob),
            image: config.image,
            patch: config.patch,
            channels: keys.num_channels,
        }
    }

    /// Tokens [batch, 1 + patches, width] of images [batch, channels, height, width].
    pub(super) fn forward(&self, pixels: Tensor<4>, ctx: &Ctx) -> Tensor<3> {
        let batch = pixels.dims()[0];
        let ([height, width], [down, across]) = (self.image, self.patch);
        let (rows, columns) = (height / down, width / across);
        let patches = pixels
            .narrow(2, 0, rows * down)
            .narrow(3, 0, columns * across)
            .reshape([batch, self.channels, rows, down, columns, across])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, self.channels * down * across]);
        let patches = self.projection.forward(patches, ctx);
        let class = self.class_token.val();
        let class = class.expand([batch, 1, patches.dims()[2]]);
        let tokens = Tensor::cat(vec![class, patches], 1) + self.positions.val();
        self.dropout.forward(self.output.hidden(tokens, ctx), ctx)
    }
}
