//! Visual prompt tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, check_dropout, dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::tokens::positive;

/// Configuration of [`Vpt`]. Defaults: deep, 10 tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VptConfig {
    /// n.
    pub virtual_tokens: usize,
    /// Whether every block has tokens of its own (VPT-deep) or only the first (VPT-shallow).
    pub deep: bool,
    /// Dropout probability on the tokens.
    pub dropout: f64,
    /// Side of the model's patches in pixels; it says how large the tokens are at first.
    pub patch_size: usize,
}

impl Default for VptConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 10,
            deep: true,
            dropout: 0.0,
            patch_size: 16,
        }
    }
}

/// [P_1; x] into the first block; into a later block [P_i; x], where P_i is in the place of what the
/// block before made of its own tokens.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P_i (`tokens`) | [n, d] | trained, U(-v, v) at first, v^2 = 6 / (3 patch^2 + d) |
///
/// Jia et al., Visual Prompt Tuning, arXiv 2203.12119, section 3.2. The tokens have no position, so
/// that it makes no difference that they are in front of the class token rather than behind it.
///
/// # Cost
/// n tokens more in every layer.
#[derive(Module, Debug)]
pub struct Vpt {
    /// P_i, [n, d].
    pub tokens: Param<Tensor<2>>,
    /// Dropout probability.
    pub dropout: f64,
    /// Whether the sequence has an earlier block's tokens in front.
    pub replaces: bool,
}

/// The sequence with `prompt` in front, or in the place of its first tokens.
pub(crate) fn enter(
    prompt: Tensor<2>,
    tokens: Tensor<3>,
    replaces: bool,
    probability: f64,
    ctx: &Ctx,
) -> Tensor<3> {
    let ([batch, length, _], [count, width]) = (tokens.dims(), prompt.dims());
    let tokens = match replaces {
        true => tokens.narrow(1, count, length - count),
        false => tokens,
    };
    let prompt = prompt.unsqueeze::<3>().expand([batch, count, width]);
    let prompt = dropout(prompt.reshape([batch * count, width]), probability, ctx);
    Tensor::cat(vec![prompt.reshape([batch, count, width]), tokens], 1)
}

/// The start of a token of width `width` in a model of such patches.
pub(crate) fn start(patch_size: usize, width: usize) -> Init {
    let pixels = (3 * patch_size * patch_size + width) as f64;
    Init::Uniform {
        bound: (6.0 / pixels).sqrt(),
    }
}

impl SiteAdapter for Vpt {
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        enter(self.tokens.val(), tokens, self.replaces, self.dropout, ctx)
    }
}

impl SiteGraft for VptConfig {
    type Adapter = Vpt;

    const SITES: &'static [SiteKind] = &[SiteKind::Sequence];

    fn default_sites<'a>(&self, mut sites: Vec<&'a SiteShape>) -> Vec<&'a SiteShape> {
        if !self.deep {
            sites.truncate(1);
        }
        sites
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(self.virtual_tokens * site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Vpt> {
        let shape = [self.virtual_tokens, site.width];
        let tokens = ctx.tensor(start(self.patch_size, site.width), shape, "tokens");
        Ok(Vpt {
            tokens: Param::from_tensor(tokens),
            dropout: self.dropout,
            replaces: ctx.depth() > 0,
        })
    }
}

impl Method for VptConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "the sequence that enters a block",
        ..MethodMeta::graft(
            "vpt",
            "VPT (shallow, deep)",
            Family::Prompt,
            "2203.12119",
            "[P_i; x] into block i, x without the tokens of the block before",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        positive("patch-size", self.patch_size)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            virtual_tokens: 2,
            patch_size: 1,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                deep: false,
                dropout: 0.3,
                virtual_tokens: 3,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge::values;

    use super::*;
    use crate::testing::{counts, draw};

    #[test]
    fn deep_prompts_take_the_place_of_the_ones_before() {
        let (prompt, tokens) = (draw([2, 3], "prompt"), draw([1, 5, 3], "tokens"));
        let ctx = Ctx::default();
        let first = enter(prompt.clone(), tokens.clone(), false, 0.0, &ctx);
        let later = enter(prompt.clone(), tokens.clone(), true, 0.0, &ctx);
        assert_eq!([first.dims()[1], later.dims()[1]], [7, 5]);
        let tail = |x: Tensor<3>, from: usize, count| values(&x.narrow(1, from, count));
        assert_eq!(tail(later.clone(), 2, 3), tail(tokens.clone(), 2, 3));
        assert_eq!(tail(first, 2, 5), values(&tokens));
        assert_eq!(tail(later, 0, 2), values(&prompt));
    }

    #[test]
    fn deep_counts_every_block_and_shallow_one() {
        let config = |deep| VptConfig {
            virtual_tokens: 50,
            deep,
            ..VptConfig::default()
        };
        assert_eq!(counts(&config(true), 12, 768, 768).trainable, 12 * 50 * 768);
        assert_eq!(counts(&config(false), 12, 768, 768).trainable, 50 * 768);
    }
}
