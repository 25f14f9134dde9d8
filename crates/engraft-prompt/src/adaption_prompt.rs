//! Adaption prompts.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AttentionView, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts,
    Result, SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::{Init, ops};
use serde::{Deserialize, Serialize};

use crate::tokens::positive;

/// Configuration of [`AdaptionPrompt`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdaptionPromptConfig {
    /// K.
    pub virtual_tokens: usize,
    /// Layers L that have a prompt, the last ones; left out, all.
    pub layers: Option<usize>,
    /// Whether what the prompt's values add goes through the layer's output projection. PEFT leaves
    /// it out on GPT-2.
    pub through_output: bool,
}

impl Default for AdaptionPromptConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 10,
            layers: None,
            through_output: true,
        }
    }
}

/// y + g softmax(Q K(P)^T / sqrt(h)) V(P) O: the queries of an attention layer that returned y attend
/// to the keys and values of trained tokens P too, by a share of their own.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P (`prompt`) | [K, d] | trained, N(0, 1) at first |
/// | g (`gate`) | `[1]` | trained, zero at first |
/// | Q | [tokens, heads, h] | the layer's queries, rotated where it rotates them |
/// | K(P), V(P) | [K, heads, h] | the layer's projections of P, never rotated |
/// | O | [heads h, d] | the layer's output projection, its offset included |
///
/// Zhang et al., LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention,
/// arXiv 2303.16199, section 3.2, at the last L layers; the paper's gate is tanh(g) per head in its
/// code, here it is one plain number per layer, as in PEFT.
///
/// # Cost
/// K keys more in L layers, and one more output projection there.
#[derive(Module, Debug)]
pub struct AdaptionPrompt {
    /// P, [K, d].
    pub prompt: Param<Tensor<2>>,
    /// g, `[1]`.
    pub gate: Param<Tensor<1>>,
    /// Whether what is added goes through the output projection.
    pub through_output: bool,
}

/// [K, key heads, h] as [heads, K, h]: each key head serves a group of query heads.
fn for_queries(x: Tensor<4>, heads: usize) -> Tensor<3> {
    let [_, count, own, width] = x.dims();
    let x: Tensor<3> = x.reshape([count, own, width]).swap_dims(0, 1);
    let group = heads / own;
    let x: Tensor<4> = x.unsqueeze_dim(1);
    x.expand([own, group, count, width])
        .reshape([heads, count, width])
}

impl SiteAdapter for AdaptionPrompt {
    fn attend(&self, output: Tensor<3>, view: &AttentionView<'_>, _: &Ctx) -> Tensor<3> {
        let [batch, tokens, heads, width] = view.queries.dims();
        let (keys, values) = (view.project)(self.prompt.val().unsqueeze());
        let (keys, values) = (for_queries(keys, heads), for_queries(values, heads));
        let queries: Tensor<3> = view.queries.clone().reshape([batch * tokens, heads, width]);
        let scores = queries.swap_dims(0, 1).matmul(keys.swap_dims(1, 2));
        let shares = ops::softmax(scores * (width as f64).sqrt().recip());
        let attended = shares.matmul(values) * self.gate.val().unsqueeze();
        let attended = attended.swap_dims(0, 1);
        let added = match self.through_output {
            true => (view.output)(attended.reshape([batch, tokens, heads, width])),
            false => attended.reshape([batch, tokens, heads * width]),
        };
        output + added
    }
}

impl SiteGraft for AdaptionPromptConfig {
    type Adapter = AdaptionPrompt;

    const SITES: &'static [SiteKind] = &[SiteKind::Attention];

    fn default_sites<'a>(&self, mut sites: Vec<&'a SiteShape>) -> Vec<&'a SiteShape> {
        let layers = self.layers.unwrap_or(sites.len()).min(sites.len());
        sites.split_off(sites.len() - layers)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(self.virtual_tokens * site.width + 1)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<AdaptionPrompt> {
        let shape = [self.virtual_tokens, site.width];
        let prompt = ctx.tensor(Init::Normal { std: 1.0 }, shape, "prompt");
        Ok(AdaptionPrompt {
            prompt: Param::from_tensor(prompt),
            gate: Param::from_tensor(ctx.tensor(Init::ZEROS, [1], "gate")),
            through_output: self.through_output,
        })
    }
}

impl Method for AdaptionPromptConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("ADAPTION_PROMPT"),
        mergeable: false,
        admits: "any attention layer",
        ..MethodMeta::graft(
            "adaption-prompt",
            "Adaption prompt (LLaMA-Adapter)",
            Family::Prompt,
            "2303.16199",
            "y + g softmax(Q K(P)^T / sqrt(h)) V(P) O",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        positive("layers", self.layers.unwrap_or(1))
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            virtual_tokens: 3,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                layers: Some(1),
                through_output: false,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::counts;

    #[test]
    fn the_last_layers_have_prompts() {
        let config = AdaptionPromptConfig {
            layers: Some(30),
            ..AdaptionPromptConfig::default()
        };
        // 1.2 million on LLaMA-7B, as the paper's abstract has it.
        assert_eq!(
            counts(&config, 32, 4096, 4096).trainable,
            30 * (10 * 4096 + 1)
        );
        assert_eq!(counts(&config, 2, 8, 8).trainable, 2 * 81);
    }
}
