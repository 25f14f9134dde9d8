//! The vision transformer.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use engraft_core::file::{self, Contents};
use engraft_core::{Adaptable, Ctx, Linear, ModelShapes, Result, Site, Slots, Trained};
use engraft_tensor::{Init, Key};

use crate::block::{Block, without_lead};
use crate::init::Start;
use crate::layer_norm::LayerNorm;
use crate::vit_config::VitConfig;

/// logits = head(norm(blocks([class; patches W + b] + positions))\[class\]).
///
/// Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929, equations 1 to 4.
///
/// A `sequence` site prepends its tokens in front of the class token. They stay through the
/// following blocks until another block's site replaces them (shallow and deep prompts of Jia et
/// al., arXiv 2203.12119) and are dropped before the final norm.
#[derive(Module, Debug)]
pub struct Vit {
    /// Patches to tokens: a convolution without overlap, W: [channels * patch * patch, width].
    pub patch_embedding: Linear,
    /// The class token, [1, width].
    pub class_token: Param<Tensor<2>>,
    /// Learned positions of class token and patches, [1 + patches, width].
    pub positions: Param<Tensor<2>>,
    /// The embedded tokens.
    pub embedding: Site,
    /// Blocks.
    pub blocks: Vec<Block>,
    /// The final norm.
    pub norm: LayerNorm,
    /// The task head, [width, classes].
    pub head: Linear,
    #[module(skip)]
    config: VitConfig,
}

impl Vit {
    /// A fresh model: linear layers as Glorot and Bengio, positions N(0, 0.02^2), class token and
    /// head zero, all from the streams of `key`.
    ///
    /// # Errors
    /// As [`VitConfig::validate`].
    pub fn new(config: &VitConfig, key: &Key, device: &Device, dtype: DType) -> Result<Self> {
        config.validate()?;
        let start = Start {
            key: key.clone(),
            device,
            dtype,
        };
        let (width, positions) = (config.width, [1 + config.patches(), config.width]);
        Ok(Self {
            patch_embedding: start.glorot("patch_embedding", config.patch_size(), width),
            class_token: Param::from_tensor(Init::ZEROS.tensor([1, width], key, device, dtype)),
            positions: Param::from_tensor(Init::Normal { std: 0.02 }.tensor(
                positions,
                &key.child("positions"),
                device,
                dtype,
            )),
            embedding: Site::default(),
            blocks: (0..config.depth)
                .map(|index| Block::new(config, &start.child(&format!("blocks.{index}"))))
                .collect(),
            norm: LayerNorm::new(width, config.epsilon, &start.child("norm")),
            head: start.linear("head", width, config.classes, Init::ZEROS),
            config: config.clone(),
        })
    }

    /// A model with the weights of a safetensors file's contents; `path` is for messages.
    ///
    /// # Errors
    /// An invalid configuration, or tensors that are missing, unexpected or of another shape.
    pub fn from_safetensors(
        config: &VitConfig,
        path: &Path,
        contents: Contents,
        device: &Device,
    ) -> Result<Self> {
        let model = Self::new(config, &Key::new(0), device, DType::F32)?;
        file::load_module(model, path, contents)
    }

    /// The configuration.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Logits [batch, classes] of images [batch, ...] with channels * image * image numbers each,
    /// in the order channel, row, column.
    ///
    /// # Panics
    /// If an image holds another number of values.
    pub fn forward<const D: usize>(&self, images: Tensor<D>, ctx: &Ctx) -> Tensor<2> {
        let side = self.config.image / self.config.patch;
        let ctx = &ctx.with_grid([side, side]);
        let mut x = self.embed(images, ctx);
        let mut lead = 0;
        for block in &self.blocks {
            (x, lead) = block.enter(x, lead, ctx);
            x = block.forward(x, ctx);
        }
        // The final norm acts on each token alone, and only the class token is read.
        let class: Tensor<2> = without_lead(x, lead).narrow(1, 0, 1).squeeze_dim(1);
        self.head.forward(self.norm.forward(class, ctx), ctx)
    }

    /// Tokens [batch, 1 + patches, width] of images.
    fn embed<const D: usize>(&self, images: Tensor<D>, ctx: &Ctx) -> Tensor<3> {
        let VitConfig {
            image,
            patch,
            channels,
            width,
            ..
        } = self.config;
        let (batch, side) = (images.dims()[0], image / patch);
        let patches = images
            .reshape([batch, channels, side, patch, side, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, side * side, self.config.patch_size()]);
        let class = self
            .class_token
            .val()
            .unsqueeze::<3>()
            .expand([batch, 1, width]);
        let tokens = Tensor::cat(vec![class, self.patch_embedding.forward(patches, ctx)], 1);
        self.embedding
            .hidden(tokens + self.positions.val().unsqueeze(), ctx)
    }
}

impl Trained for Vit {}

impl Adaptable for Vit {
    fn shapes(&self) -> ModelShapes {
        self.config.shapes()
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        slots
            .linear("patch_embedding", &mut self.patch_embedding)
            .site("embedding", &mut self.embedding);
        let blocks = &mut self.blocks;
        slots.within("blocks", |slots| {
            for (index, block) in blocks.iter_mut().enumerate() {
                slots.within(&index.to_string(), |slots| block.slots(slots));
            }
        });
        slots
            .within("norm", |slots| self.norm.slots(slots))
            .linear("head", &mut self.head);
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{AnySite, Slot};

    use super::*;
    use crate::testing::{Prompt, agrees_with_its_shapes};
    use crate::vit_config::tiny;

    fn random(shape: [usize; 2], seed: u64) -> Tensor<2> {
        Init::Normal { std: 1.0 }.tensor(shape, &Key::new(seed), &Device::default(), DType::F64)
    }

    fn vit() -> Vit {
        let mut model = Vit::new(&tiny(), &Key::new(1), &Device::default(), DType::F64).unwrap();
        model.head.weight = Param::from_tensor(random([8, 3], 7)).into();
        model
    }

    fn images() -> Tensor<2> {
        random([4, 72], 5)
    }

    fn attach(model: &mut Vit, path: &str, prompt: Prompt) {
        model.slots(&mut Slots::new(&mut |found, slot| {
            if let (true, Slot::Site(site)) = (found == path, slot) {
                site.attach(path, "prompt", AnySite::new(prompt.clone()))
                    .unwrap();
            }
        }));
    }

    #[test]
    fn shapes_and_slots_are_those_of_the_record() {
        agrees_with_its_shapes(vit());
        assert_eq!(VitConfig::default().shapes().total(), 85_798_656 + 769_000);
    }

    #[test]
    fn patches_are_read_channel_row_column() {
        let model = vit();
        let images = images();
        // Patch 1 of image 0: columns 3 to 5 of rows 0 to 2 in either channel.
        let pixels = images.to_data().try_to_vec::<f64>().unwrap();
        let patch: Vec<f64> = (0..18)
            .map(|i| pixels[(i / 9) * 36 + (i % 9 / 3) * 6 + 3 + i % 3])
            .collect();
        let patch = engraft_tensor::bridge::tensor(patch, [1, 18], &Device::default(), DType::F64);
        let expected =
            model.patch_embedding.base().forward(patch) + model.positions.val().narrow(0, 2, 1);
        let found: Tensor<2> = model
            .embed(images.clone(), &Ctx::default())
            .narrow(0, 0, 1)
            .narrow(1, 2, 1)
            .squeeze_dim(1);
        found.to_data().assert_approx_eq::<f64>(
            &expected.to_data(),
            burn::tensor::Tolerance::absolute(1e-12),
        );
        // The layout of the batch does not matter.
        let square = images.clone().reshape([4, 2, 6, 6]);
        model
            .forward(square, &Ctx::default())
            .to_data()
            .assert_eq(&model.forward(images, &Ctx::default()).to_data(), true);
    }

    #[test]
    fn the_class_token_is_found_behind_prompts_shallow_and_deep() {
        let plain = vit();
        let ctx = Ctx::default();
        let logits = |model: &Vit| model.forward(images(), &ctx);
        let apart = |a: &Vit, b: &Vit| (logits(a) - logits(b)).abs().max().into_scalar::<f64>();
        let prompt = |tokens, seed| Prompt::new(random([tokens, 8], seed));

        let mut shallow = vit();
        attach(&mut shallow, "blocks.0.sites.sequence", prompt(3, 1));
        assert_eq!(logits(&shallow).dims(), [4, 3]);
        assert!(apart(&shallow, &plain) > 1e-3);

        // Prompts of a later block replace the earlier ones.
        let mut deep = shallow.clone();
        attach(&mut deep, "blocks.1.sites.sequence", prompt(1, 2));
        let mut late = vit();
        attach(&mut late, "blocks.1.sites.sequence", prompt(1, 2));
        assert!(apart(&deep, &shallow) > 1e-3 && apart(&deep, &late) > 1e-3);

        // Switched off, they are gone.
        deep.slots(&mut Slots::new(&mut |_, slot| {
            if let Slot::Site(site) = slot {
                site.adapters.disable(true);
            }
        }));
        assert_eq!(apart(&deep, &plain), 0.0);
    }

    #[test]
    fn a_prompt_at_the_last_block_acts_through_attention_alone() {
        // The last block's prompt is a constant token: prepending it by hand gives the same.
        let plain = vit();
        let ctx = Ctx::default();
        let prompt = random([2, 8], 3);
        let mut prompted = vit();
        attach(
            &mut prompted,
            "blocks.1.sites.sequence",
            Prompt::new(prompt.clone()),
        );
        let x = plain.blocks[0].forward(plain.embed(images(), &ctx), &ctx);
        let x = Tensor::cat(vec![x, prompt.unsqueeze::<3>().expand([4, 2, 8])], 1);
        let class: Tensor<2> = plain.blocks[1]
            .forward(x, &ctx)
            .narrow(1, 0, 1)
            .squeeze_dim(1);
        let expected = plain.head.forward(plain.norm.forward(class, &ctx), &ctx);
        let tolerance = burn::tensor::Tolerance::absolute(1e-12);
        prompted
            .forward(images(), &ctx)
            .to_data()
            .assert_approx_eq::<f64>(&expected.to_data(), tolerance);
    }
}
