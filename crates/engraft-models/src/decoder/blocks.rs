//! Through the blocks of a decoder.

use std::cell::RefCell;

use burn::tensor::Tensor;
use engraft_core::{Ctx, Site, Text};

use super::cache::{Cache, LayerCache};
use super::pass::{Pass, present};
use super::rope_scaling::Rope;
use crate::block::without_lead;
use crate::parts::enter;

/// A block of a decoder.
pub(crate) trait DecoderBlock {
    /// The sequence that enters it.
    fn sequence(&self) -> &Site;

    /// The keys and values of its attention.
    fn key_value(&self) -> &Site;

    /// Applies the block to [batch, tokens, width], of which `lead` lead in the first pass.
    fn forward(
        &self,
        x: Tensor<3>,
        pass: &Pass<'_>,
        lead: usize,
        cache: Option<&mut LayerCache>,
        ctx: &Ctx,
    ) -> Tensor<3>;
}

/// What a pass reads: the text, what came before it (the text already counted in), and the embedded
/// tokens, [batch, prompt + tokens, width].
pub(crate) struct Reading<'a> {
    pub text: &'a Text,
    pub cache: Option<&'a mut Cache>,
    pub embedded: Tensor<3>,
    pub rope: Option<&'a Rope>,
}

/// The hidden states of the text's own tokens behind the last block. `place` adds positions to the
/// embedded tokens, where these have any, from the pass and the length of the prompt.
pub(crate) fn read<B: DecoderBlock>(
    blocks: &[B],
    reading: Reading<'_>,
    place: impl FnOnce(Tensor<3>, &Pass<'_>, usize) -> Tensor<3>,
    ctx: &Ctx,
) -> Tensor<3> {
    let Reading {
        text,
        mut cache,
        embedded,
        rope,
    } = reading;
    let tokens = text.dims()[1];
    let prompt = embedded.dims()[1] - tokens;
    let offsets = blocks.iter().map(|block| block.key_value().positions(ctx));
    let pass = Pass {
        seen: cache.as_ref().map_or(0, |cache| cache.len() - tokens),
        tokens,
        present: match &cache {
            Some(cache) => cache.present.clone(),
            None => present(text),
        },
        counted: cache.is_some(),
        offset: offsets.max().unwrap_or_default(),
        rope,
        device: embedded.device(),
        dtype: embedded.dtype(),
        masks: RefCell::default(),
        angles: RefCell::default(),
    };
    let whole = match &mut cache {
        Some(cache) => {
            cache.prompt += prompt;
            cache.prompt
        }
        None => prompt,
    };
    let mut x = place(embedded, &pass, whole);
    let mut lead = 0;
    for (index, block) in blocks.iter().enumerate() {
        let mut layer = cache.as_deref_mut().map(|cache| cache.layer(index));
        if pass.is_first() {
            (x, lead) = enter(block.sequence(), x, lead, ctx);
            if let Some(layer) = &mut layer {
                layer.lead = lead;
            }
        } else {
            x = block.sequence().continued(x, ctx);
        }
        let lead = layer.as_ref().map_or(lead, |layer| layer.lead);
        x = block.forward(x, &pass, lead + whole, layer, ctx);
    }
    without_lead(x, lead + prompt)
}
