//! The vision transformer in the layout of `transformers`.

mod block;
mod config;
mod embeddings;
#[cfg(test)]
mod tests;

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adaptable, Ctx, Error, Linear, ModelShapes, Result, Slots, Trained};
use engraft_tensor::Key;

pub use block::HfVitBlock;
pub use config::HfVitConfig;
pub use embeddings::ImageEmbeddings;

use crate::block::without_lead;
use crate::checkpoint::{Names, Origin};
use crate::output::{Logits, Output};
use crate::parts::{Builder, Norm, Part, Random, enter, model_part};
use crate::replication::repeated;
use crate::shapes::from_value;
use crate::task::Task;

/// ViT (Dosovitskiy et al., arXiv 2010.11929) in the layout of `transformers`, bare or with a head for
/// image classification. Paths are those that transformers 5 has in memory
/// (`layers.0.attention.q_proj`).
#[derive(Debug, Clone)]
pub struct HfVit {
    /// Images to tokens.
    pub embeddings: ImageEmbeddings,
    /// Blocks.
    pub layers: Vec<HfVitBlock>,
    /// The final norm.
    pub norm: Norm,
    /// [width, pooled width], an activation behind it.
    pub pooler: Option<Linear>,
    /// The task head, [width, labels].
    pub classifier: Option<Linear>,
    config: HfVitConfig,
    pub(crate) origin: Origin,
}

model_part!(HfVit, this {
    embeddings => format!("{}embeddings", this.config.prefix()),
    layers => format!("{}layers", this.config.prefix()),
    norm => format!("{}layernorm", this.config.prefix()),
    pooler => "pooler.dense",
    classifier => "classifier",
} plain { config, origin });

impl HfVit {
    /// A fresh model: weights N(0, initializer_range^2), offsets 0, gains 1, from the streams of `key`.
    ///
    /// # Errors
    /// None at present; the configuration was checked when it was read.
    pub fn new(config: &HfVitConfig, key: &Key, device: &Device, dtype: DType) -> Result<Self> {
        let mut source = Random(key.clone());
        Ok(Self::build(
            config,
            &mut Builder::new(&mut source, device, dtype, config.std()),
        ))
    }

    pub(crate) fn build(config: &HfVitConfig, builder: &mut Builder<'_>) -> Self {
        let prefix = config.prefix();
        let (keys, width) = (&config.keys, config.keys.hidden_size);
        let mut encoder = builder.within(prefix.trim_end_matches('.'));
        let embeddings = ImageEmbeddings::new(config, &mut encoder);
        let layers = (0..keys.num_hidden_layers)
            .map(|index| HfVitBlock::new(&format!("layers.{index}"), config, &mut encoder))
            .collect();
        let norm = Norm::new("layernorm", width, keys.layer_norm_eps, &mut encoder);
        let (pooler, classifier) = match config.task {
            Task::Classification(labels) => (
                None,
                Some(builder.linear("classifier", width, labels, true)),
            ),
            _ => {
                let pooled = config.pooled_width();
                (
                    Some(builder.linear("pooler.dense", width, pooled, true)),
                    None,
                )
            }
        };
        Self {
            embeddings,
            layers,
            norm,
            pooler,
            classifier,
            config: config.clone(),
            origin: Origin::default(),
        }
    }

    /// What a checkpoint calls the tensors of such a model. Files have the names of older versions of
    /// `transformers`; those that version 5 has in memory are read as well.
    pub(crate) fn names(_: &HfVitConfig) -> Names {
        Names {
            prefix: "vit",
            heads: &[
                "classifier.",
                "pooler.",
                "decoder.",
                "embeddings.mask_token",
            ],
            renamed: &[
                ("encoder.layer.", "layers."),
                (".attention.attention.query.", ".attention.q_proj."),
                (".attention.attention.key.", ".attention.k_proj."),
                (".attention.attention.value.", ".attention.v_proj."),
                (".attention.output.dense.", ".attention.o_proj."),
                (".intermediate.dense.", ".mlp.fc1."),
                (".output.dense.", ".mlp.fc2."),
            ],
            ..Names::default()
        }
    }

    /// The model whose blocks are these ranges of this one's; see [`Llama::replicated`](crate::Llama::replicated).
    ///
    /// # Errors
    /// A range that is empty or reaches beyond the last block.
    pub fn replicated(&self, ranges: &[[usize; 2]]) -> Result<Self> {
        let mut same = self.clone();
        same.layers = repeated(&self.layers, ranges)?;
        same.config.keys.num_hidden_layers = same.layers.len();
        same.config.json["num_hidden_layers"] = same.layers.len().into();
        same.origin = self.origin.repeating(ranges);
        Ok(same)
    }

    /// The configuration.
    pub fn config(&self) -> &HfVitConfig {
        &self.config
    }

    /// Whether the model can read images of these dimensions: the reason if not.
    ///
    /// # Errors
    /// Another number of channels or another size.
    pub fn check(&self, pixels: &Tensor<4>) -> Result<()> {
        let [_, channels, height, width] = pixels.dims();
        let expected = self.config.keys.num_channels;
        if channels != expected || [height, width] != self.config.image {
            return Err(Error::Unsupported(format!(
                "found images of {channels} channels and {height} x {width} pixels, expected \
                 {expected} and {} x {}",
                self.config.image[0], self.config.image[1]
            )));
        }
        Ok(())
    }

    /// Hidden states, pooled vector and logits of images [batch, channels, height, width].
    ///
    /// # Panics
    /// If they do not fit the model; see [`check`](Self::check).
    pub fn forward(&self, pixels: Tensor<4>, ctx: &Ctx) -> Output {
        let ctx = &ctx.with_grid(self.config.grid());
        let mut x = self.embeddings.forward(pixels, ctx);
        let mut lead = 0;
        for block in &self.layers {
            (x, lead) = enter(&block.sequence, x, lead, ctx);
            x = block.forward(x, ctx);
        }
        let hidden = self.norm.forward(without_lead(x, lead), ctx);
        let class: Tensor<2> = hidden.clone().narrow(1, 0, 1).squeeze_dim(1);
        let pooled = self.pooler.as_ref().map(|pooler| {
            let pooled = pooler.forward(class.clone(), ctx);
            self.config.pooler_activation.forward(pooled)
        });
        let logits = self
            .classifier
            .as_ref()
            .map(|classifier| Logits::Sequence(classifier.forward(class, ctx)));
        Output {
            hidden,
            pooled,
            logits,
        }
    }
}

impl Trained for HfVit {}

impl Adaptable for HfVit {
    fn shapes(&self) -> ModelShapes {
        ModelShapes {
            replicated: self.origin.replicated.clone(),
            ..from_value(&self.config.json).expect("the configuration was read before")
        }
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        self.show("", slots);
    }
}
